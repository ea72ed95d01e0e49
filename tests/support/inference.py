"""Inference backends and small networks for them; speeds that tests make up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cifarctl import models
from cifarctl.models import backends
from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.serving import backend_selection
from cifarctl.serving.backend_selection import Prepared, prepare
from cifarctl.serving.ranking import Choice
from cifarctl.settings import ServeSettings

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CPU = torch.device("cpu")
COMBINATIONS = [
    Choice("eager", "float32"),
    Choice("eager", "bfloat16"),
    Choice("onnxruntime", "float32"),
    Choice("openvino", "float32"),
    Choice("openvino", "bfloat16"),
]


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(models.build("net", {"classes": 10}).eval(), MEAN, STD, 10)


def build(choice: Choice, of: Network | None = None, batch_size: int = 128) -> Backend:
    """The backend, or a skip where it cannot be had."""
    kind = backends.find(choice.backend)
    if absent := backends.missing(kind):
        pytest.skip(f"{' and '.join(absent)} not installed")
    if choice.precision not in backends.precisions(choice.backend):
        pytest.skip(f"{choice.backend} has no {choice.precision} on this processor")
    return backends.build(choice.backend, of or network(), Plan(choice.precision, CPU, 1, batch_size))


@pytest.fixture(params=COMBINATIONS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    return build(request.param)


@pytest.fixture(scope="module")
def reference() -> Predictor:
    return Predictor(network().model, MEAN, STD)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


class Speedometer:
    """Stands in for the measurement: speeds as told, and how often they were asked for."""

    def __init__(self) -> None:
        self.speeds: dict[str, float] = {}
        self.runs = 0

    def __call__(self, built: Mapping[Choice, Backend], images: int, seconds: float) -> dict[Choice, float]:
        self.runs += 1
        return {choice: self.speeds.get(str(choice), 1.0) for choice in built}


@pytest.fixture
def speedometer(monkeypatch: pytest.MonkeyPatch) -> Speedometer:
    found = Speedometer()
    monkeypatch.setattr(backend_selection, "images_per_second", found)
    return found


def choose(registry: Registry, version: int = 1, like: Prepared | None = None, **options: Any) -> Prepared:
    return prepare(load(registry, version), registry, ServeSettings(**options), 1, like=like)


def chosen(prepared: Prepared) -> Choice:
    return Choice(prepared.backend.name, prepared.backend.precision)
