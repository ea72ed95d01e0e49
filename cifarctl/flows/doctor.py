"""Looking at everything that a command may need, without changing any of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import torch

from cifarctl import data
from cifarctl.errors import CifarctlError
from cifarctl.events import Check
from cifarctl.models.predictor import choose_device
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.settings import Settings
from cifarctl.stream import clients


def examine(settings: Settings) -> list[tuple[Check, int]]:
    """Each check with the exit code that its failure deserves (0 where it is fine); downloads and creates nothing."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("device", _device),
        ("data", _data),
        ("registry", _registry),
        ("broker", _broker),
        ("topics", _topics),
    ]
    found: list[tuple[Check, int]] = []
    for name, look in checks:
        if name == "topics" and found[-1][1]:  # without a broker the same failure again, and the same wait
            continue
        try:
            found.append((Check(name, ok=True, finding=look(settings)), 0))
        except CifarctlError as error:
            found.append((Check(name, ok=False, finding=str(error)), error.exit_code))
    return found


def _device(settings: Settings) -> str:
    device = choose_device(settings.serve.device, "serve.device")
    return f"{device}, {os.cpu_count()} cores; python {platform.python_version()}, torch {torch.__version__}"


def _data(settings: Settings) -> str:
    dataset = data.load(settings.data.model_copy(update={"download": False}))
    parts = data.split(dataset.train.labels, settings.data.split, settings.data.split_seed)
    sizes = f"{len(parts.train):,} train, {len(parts.validation):,} validation, {len(parts.stream):,} stream"
    return f"{dataset.name}: {sizes}, {len(dataset.test):,} test" + (f"; {dataset.notice}" if dataset.notice else "")


def _registry(settings: Settings) -> str:
    registry = Registry(settings.registry)
    alias = registry.alias(settings.serve.alias)
    if alias is None:
        return f"{registry.dir} has no {settings.serve.alias} version yet; `cifarctl train` makes one"
    manifest = load(registry, alias.version).manifest
    return f"{registry.dir}: {alias.name} is version {manifest.version} ({manifest.model}), which passes all checks"


def _broker(settings: Settings) -> str:
    clients.check(settings.kafka)
    return f"{settings.kafka.bootstrap_servers} answers"


def _topics(settings: Settings) -> str:
    there = clients.partition_counts(settings.kafka)
    topics = clients.Topics.of(settings.kafka.topic_prefix)
    wanted = (topics.images, topics.predictions, topics.dead_letters)
    return ", ".join(
        f"{name}: {there[name]} partitions" if name in there else f"{name}: made when first needed" for name in wanted
    )
