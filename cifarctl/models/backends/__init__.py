"""Inference backends: one module each, with a common interface.

To add one, create a module here that sets ``BACKEND``, and add its name to ``serve.backend``.
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

telemetry.switch_off()  # before any backend module imports its runtime

CHUNK = 64
"""Maximum images per pass on the CPU; larger passes do not fit into the caches."""


class Unusable(Exception):
    """An installed backend does not work here; the message is a short reason."""


@dataclass(frozen=True)
class Network:
    """A model in eval mode on the CPU, its normalisation constants and its number of classes."""

    model: nn.Module
    mean: Channels
    std: Channels
    classes: int

    def whole(self) -> Whole:
        """The module from pixels to probabilities, for exporters."""
        return Whole(self.model, self.mean, self.std).eval()


@dataclass(frozen=True)
class Plan:
    """How a backend runs: precision, device, CPU threads, and maximum images per call."""

    precision: Precision
    device: torch.device
    threads: int
    batch_size: int

    @property
    def chunk(self) -> int:
        """Maximum images per pass."""
        return min(self.batch_size, CHUNK) if self.device.type == "cpu" else self.batch_size


class Backend(ABC):
    """Predicts class probabilities of uint8 images.

    Batches of any size run at nearly the throughput of full ones. The GIL is released during a pass. Calls are not
    thread-safe.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """Required packages in addition to torch."""
    cpu_only: ClassVar[bool] = True

    def __init__(self, network: Network, plan: Plan) -> None:
        """Prepare `network`; any exception may propagate, see `build`."""
        self.network, self.plan = network, plan

    @property
    def precision(self) -> Precision:
        """The precision that it computes in."""
        return self.plan.precision

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """The precisions supported on this machine; any exception may propagate, see `precisions` below."""
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
    """The backend with that name; its runtime is imported only when it is built."""
    found: type[Backend] = importlib.import_module(f"{__name__}.{name}").BACKEND
    return found


def missing(backend: type[Backend]) -> list[str]:
    """Required packages that are not installed."""
    return [package for package in backend.packages if importlib.util.find_spec(package) is None]


def versions(backend: type[Backend]) -> dict[str, str]:
    """Installed versions of torch and of the required packages."""
    return {package: importlib.metadata.version(package) for package in ("torch", *backend.packages)}


def precisions(name: str) -> tuple[Precision, ...]:
    """The precisions that the installed backend with that name supports on this machine.

    Raises:
        Unusable: its installation is broken.
    """
    with failures(name):
        return find(name).precisions()


def build(name: str, network: Network, plan: Plan) -> Backend:
    """Build the installed backend with that name, and test it on the smallest and the largest batch.

    Raises:
        Unusable: it cannot run this network.
    """
    with failures(name):
        backend = find(name)(network, plan)
        for count in {1, plan.chunk}:
            shape = tuple(backend(torch.zeros(count, 3, 32, 32, dtype=torch.uint8)).shape)
            if shape != (count, network.classes):
                raise Unusable(f"{name} returns the shape {shape} for {count} images")
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
