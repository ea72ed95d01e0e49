"""The backends that the settings permit on this host, ranked by speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cifarctl import __version__, cpus
from cifarctl.errors import SettingsError
from cifarctl.models import backends
from cifarctl.models.backends import Backend, Unusable
from cifarctl.models.predictor import Precision
from cifarctl.serving import host_cache
from cifarctl.settings import ServeSettings

#: Weight of a measured speed: the coarser arithmetic must be a quarter faster to win.
WORTH = {"float32": 1.0, "bfloat16": 0.8}


@dataclass(frozen=True)
class Choice:
    """A backend and the arithmetic that it computes in."""

    backend: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} in {self.precision}"


REFERENCE = Choice("eager", "float32")


def permitted(options: ServeSettings, device: torch.device) -> tuple[list[Choice], list[str]]:
    """The choices that the settings permit and that run on `device`; and a line for each backend that is broken.

    Raises:
        SettingsError: a backend or precision named in the settings is not available.
    """
    if options.backend != "auto":
        return _named(options.backend, options, device), []
    choices, broken = [], []
    for name in backends.names():
        kind = backends.find(name)
        if backends.missing(kind) or (kind.cpu_only and device.type != "cpu"):
            continue
        try:
            able = backends.precisions(name)
        except Unusable as error:
            broken.append(f"{error}; serve.backend = auto skips it")
            continue
        choices += [Choice(name, precision) for precision in able if options.precision in {"auto", precision}]
    return choices, broken


def _named(name: str, options: ServeSettings, device: torch.device) -> list[Choice]:
    kind = backends.find(name)
    if absent := backends.missing(kind):
        raise SettingsError(
            f"serve.backend = {name}: {' and '.join(absent)} not installed; "
            "pip install 'cifarctl[fast]', or set serve.backend to auto"
        )
    if kind.cpu_only and device.type != "cpu":
        raise SettingsError(f"serve.backend = {name} does not run on {device}; set serve.device to cpu")
    try:
        able = backends.precisions(name)
    except Unusable as error:
        raise SettingsError(f"serve.backend = {name}: {error}; reinstall it, or set serve.backend to auto") from error
    if options.precision not in {"auto", *able}:
        raise SettingsError(
            f"serve.precision = {options.precision}: {name} computes in {' or '.join(able)} here; "
            "set serve.precision to auto"
        )
    return [Choice(name, precision) for precision in able if options.precision in {"auto", precision}]


def order(speeds: Mapping[Choice, float]) -> tuple[Choice, ...]:
    """The choices, fastest first; `speeds` in images per second."""
    return tuple(sorted(speeds, key=lambda choice: -speeds[choice] * WORTH[choice.precision]))


def identity(choices: Sequence[Choice], device: torch.device) -> dict[str, Any]:
    """Everything about this host that measurements of `choices` depend on, as part of a key of the host's cache."""
    kinds: list[type[Backend]] = [backends.find(choice.backend) for choice in choices]
    versions = {"cifarctl": __version__}
    for kind in kinds:
        versions |= backends.versions(kind)
    return {
        "choices": [str(choice) for choice in choices],
        "versions": versions,
        "device": str(device),
        "processor": host_cache.processor(),
        "cpus": cpus.count(),
    }


def parse_speeds(value: Mapping[str, Any] | None, choices: Sequence[Choice]) -> dict[Choice, float] | None:
    """The speeds in an entry of the host's cache; None where it lacks one of the `choices`."""
    found = {choice: (value or {}).get(str(choice)) for choice in choices}
    speeds = {choice: float(speed) for choice, speed in found.items() if isinstance(speed, int | float)}
    usable = len(speeds) == len(choices) and all(math.isfinite(speed) and speed > 0 for speed in speeds.values())
    return speeds if usable else None
