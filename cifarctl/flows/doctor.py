"""``cifarctl doctor``: checks everything that a command may need, and changes nothing."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable

import torch

from cifarctl import cpus, data
from cifarctl.errors import BrokerError, CifarctlError, RegistryError
from cifarctl.events import Check
from cifarctl.models.predictor import choose_device
from cifarctl.registry import Registry
from cifarctl.registry.inspection import other_classes
from cifarctl.registry.loading import load
from cifarctl.settings import Settings
from cifarctl.stream import clients, rights

BEHIND_BROKER = ("credentials", "topics")


def examine(settings: Settings) -> list[tuple[Check, int]]:
    """Each check, with the exit code of its failure (0 where it passes); downloads and creates nothing."""

    @functools.cache
    def asked() -> rights.Rights | CifarctlError:
        try:
            return rights.examine(settings.kafka)
        except CifarctlError as error:
            return error

    def permitted() -> rights.Rights:
        if isinstance(answer := asked(), CifarctlError):
            raise answer
        return answer

    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("device", _device),
        ("data", _data),
        ("registry", _registry),
        ("broker", _broker),
        ("credentials", lambda settings: _credentials(settings, permitted())),
        ("topics", lambda settings: _topics(settings, permitted())),
    ]
    found: list[tuple[Check, int]] = []
    broker = True
    for name, look in checks:
        if name in BEHIND_BROKER and not broker:  # they would fail, and wait, the same way
            continue
        try:
            found.append((Check(name, ok=True, finding=look(settings)), 0))
        except CifarctlError as error:
            found.append((Check(name, ok=False, finding=str(error)), error.exit_code))
            broker = broker and name != "broker" and not (name == "credentials" and error is asked())
    return found


def _device(settings: Settings) -> str:
    device = choose_device(settings.serve.device, "serve.device")
    return f"{device}, {_cores()}; python {platform.python_version()}, torch {torch.__version__}"


def _cores() -> str:
    """The number of CPUs that may be used, and of all where there are more."""
    allowed, there = cpus.count(), os.cpu_count() or 1
    return f"{allowed} core{'s' if allowed != 1 else ''}" + (f" of {there}" if there > allowed else "")


def _data(settings: Settings) -> str:
    dataset = data.load(settings.data.model_copy(update={"download": False}))
    parts = data.split_of(dataset, settings.data)
    sizes = f"{len(parts.train):,} train, {len(parts.validation):,} validation, {len(parts.stream):,} stream"
    return f"{dataset.name}: {sizes}, {len(dataset.test):,} test" + (f"; {dataset.notice}" if dataset.notice else "")


def _registry(settings: Settings) -> str:
    registry = Registry(settings.registry)
    if faults := registry.faults():
        raise RegistryError("; ".join(map(str, faults)))
    alias = registry.alias(settings.serve.alias)
    if alias is None:
        return f"{registry.dir} has no {settings.serve.alias} version yet; `cifarctl train` makes one"
    manifest = load(registry, alias.version).manifest
    if (other := other_classes(manifest, settings.data)) is not None:
        raise RegistryError(f"{registry.dir}: {alias.name} is version {manifest.version}, but {other}")
    return f"{registry.dir}: {alias.name} is version {manifest.version} ({manifest.model}), which passes all checks"


def _broker(settings: Settings) -> str:
    broker = clients.check(settings.kafka)
    return f"{settings.kafka.bootstrap_servers} answers" + (", the embedded broker" if broker.embedded else "")


def _credentials(settings: Settings, found: rights.Rights) -> str:
    kafka = settings.kafka
    name = kafka.sasl_username or kafka.sasl_oauth_client_id or kafka.ssl_certificate_location or "anybody"
    how = (
        kafka.security_protocol
        if kafka.sasl_mechanism is None
        else f"{kafka.security_protocol}, {kafka.sasl_mechanism}"
    )
    if found.missing:
        raise BrokerError(
            f"{kafka.bootstrap_servers} does not permit {name} ({how}): {', '.join(found.missing)}; grant it, "
            "unless the commands that need it run as another user"
        )
    return f"{name} ({how}) may do what produce, serve and retrain need"


def _topics(settings: Settings, found: rights.Rights) -> str:
    if found.absent and not settings.kafka.create_topics:
        raise BrokerError(
            f"{', '.join(found.absent)}: no such topics, and kafka.create_topics is false: create them, or set "
            "kafka.topic_prefix to topics that are there"
        )
    there = [f"{name}: {count} partition{'s' if count != 1 else ''}" for name, count in found.topics.items()]
    return ", ".join(there + [f"{name}: made when first needed" for name in found.absent]) or "none may be described"
