"""Inference backends: one small file each, all with the same interface.

A new one joins by a file here that sets ``BACKEND``, and by its name in ``serve.backend``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from cifarctl.models import telemetry
from cifarctl.models.predictor import Precision
from cifarctl.models.preprocess import Channels, Whole

telemetry.switch_off()  # whatever imports one of the runtimes, or the exporter that does, has imported this

CHUNK = 64
"""Images of one pass on the CPU: more of them only push each other out of the processor's caches."""


class Unusable(Exception):
    """An installed backend does not work here; the message is half a line that says why."""


@dataclass(frozen=True)
class Network:
    """A model in eval mode on the CPU, and what its inputs and outputs are."""

    model: nn.Module
    mean: Channels
    std: Channels
    classes: int

    def whole(self) -> Whole:
        """From pixels to probabilities, for exporters."""
        return Whole(self.model, self.mean, self.std).eval()


@dataclass(frozen=True)
class Plan:
    """How a backend runs: its precision, device, CPU threads, and the maximum number of images in a call."""

    precision: Precision
    device: torch.device
    threads: int
    batch_size: int

    @property
    def chunk(self) -> int:
        """Most images of one pass."""
        return min(self.batch_size, CHUNK) if self.device.type == "cpu" else self.batch_size


class Backend(ABC):
    """Class probabilities of uint8 images.

    Any number of images is predicted at nearly the speed of full batches. The interpreter is free for other threads
    while a pass runs; only one thread at a time may call.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that must be installed besides torch."""
    cpu_only: ClassVar[bool] = True

    def __init__(self, network: Network, plan: Plan) -> None:
        """Prepare to run `network`; may raise anything, see `build`."""
        self.network, self.plan = network, plan

    @property
    def precision(self) -> Precision:
        """The precision that it computes in."""
        return self.plan.precision

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """The precisions that it supports on this machine; may raise anything, see `precisions` below."""
        return ("float32",)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, classes) float32 on the CPU for pixels (N, 3, 32, 32) uint8 on the CPU."""
        if not len(pixels):
            return torch.empty(0, self.network.classes)
        passes = -(-len(pixels) // self.plan.chunk)
        if passes == 1:
            return self._run(pixels.contiguous())
        return torch.cat([self._run(part.contiguous()) for part in pixels.chunk(passes)])

    @abstractmethod
    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        """One pass over 1 to `plan.chunk` contiguous images."""


def names() -> list[str]:
    """Names of all backends, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Backend]:
    """The backend of that name; what it needs is imported only when it is built."""
    found: type[Backend] = importlib.import_module(f"{__name__}.{name}").BACKEND
    return found


def missing(backend: type[Backend]) -> list[str]:
    """Packages that it needs and that are not installed."""
    return [package for package in backend.packages if importlib.util.find_spec(package) is None]


def versions(backend: type[Backend]) -> dict[str, str]:
    """Versions of torch and of the packages that it needs, all installed."""
    return {package: importlib.metadata.version(package) for package in ("torch", *backend.packages)}


def precisions(name: str) -> tuple[Precision, ...]:
    """The precisions that the installed backend of that name supports on this machine.

    Raises:
        Unusable: its installation is broken.
    """
    with failures(name):
        return find(name).precisions()


def build(name: str, network: Network, plan: Plan) -> Backend:
    """The installed backend of that name, shown to run `network` on batches of all sizes.

    Raises:
        Unusable: it does not run this network.
    """
    with failures(name):
        backend = find(name)(network, plan)
        for count in {1, plan.chunk}:
            shape = tuple(backend(torch.zeros(count, 3, 32, 32, dtype=torch.uint8)).shape)
            if shape != (count, network.classes):
                raise Unusable(f"{name} makes {shape} of {count} images")
    return backend


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Turn any exception of a runtime, a compiler or a broken installation into Unusable."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).split("\n")
        raise Unusable(f"{name} fails here ({type(cause).__name__}: {lines[0].strip()[:200]})") from error
