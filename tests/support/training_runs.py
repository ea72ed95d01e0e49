"""Small runs of training, and what is left of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TRAIN, load_data, open_registry
from torch import nn
from torch.nn import functional

from cifarctl import events
from cifarctl.data import Dataset, Split
from cifarctl.flows.train import train
from cifarctl.models.architectures import airbench
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.settings import DataSettings, RegistrySettings, Settings, TrainSettings

SMALL = DataSettings(source="synthetic", synthetic_images=500)  # 350 training images: 10 batches of 32 an epoch
QUICK = TRAIN.model_copy(update={"epochs": 3})
BATCHES = 10


@pytest.fixture(scope="module")
def images() -> tuple[Dataset, Split]:
    return load_data(SMALL)


def chosen(directory: Path, settings: TrainSettings) -> Settings:
    return Settings(data=SMALL, train=settings, registry=RegistrySettings(dir=directory))


def flow(
    images: tuple[Dataset, Split], registry: Registry, settings: TrainSettings = QUICK, **options: Any
) -> Iterable[events.TrainEvent]:
    return train(images[0], chosen(registry.dir, settings), **options)


def result_of(found: Iterable[events.TrainEvent]) -> events.TrainResult:
    *_, last = found
    assert isinstance(last, events.TrainResult)
    return last


def weights(registry: Registry, version: int) -> dict[str, torch.Tensor]:
    return load(registry, version).model.state_dict()


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


def stop_at_step(step: int, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set while the optimiser's step number `step` is under way."""
    stop, done = threading.Event(), 0
    original = functional.cross_entropy

    def counting(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        if done == step:
            stop.set()
        return original(*arguments, **options)

    monkeypatch.setattr(functional, "cross_entropy", counting)
    return stop


def told(registry: Registry, version: int) -> list[dict[str, Any]]:
    """The lines of a version's metrics.jsonl."""
    (file,) = (path for path in registry.plots(version) if path.name == "metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def checkpoints(registry: Registry) -> list[Path]:
    return sorted((registry.dir / "training").glob("*.safetensors"))


# --- interruption


@pytest.fixture(scope="module")
def uninterrupted(
    images: tuple[Dataset, Split], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights of a run that nobody disturbed, and the mean loss of each epoch."""
    registry = open_registry(tmp_path_factory.mktemp("uninterrupted"))
    found = list(flow(images, registry))
    losses = [event.loss for event in found if isinstance(event, events.EpochDone)]
    return weights(registry, result_of(found).version), losses


# --- compiled


class Compiled(nn.Module):
    """In place of what torch.compile gives: the network, known by its wrapper."""

    def __init__(self, network: nn.Module, **_: object) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs)  # type: ignore[no-any-return]


def no_compiler(_: object, **__: object) -> Callable[..., None]:
    """In place of torch.compile where there is nothing to compile with: it fails when the network is called."""

    def fail(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

    return fail


def notices(found: Iterable[events.TrainEvent]) -> list[str]:
    return [event.message for event in found if isinstance(event, events.Notice)]


NORMALISED = QUICK.model_copy(update={"model": "net-bn", "epochs": 1})  # statistics are what a trial could disturb

# --- promotion


def run_again(images: tuple[Dataset, Split], registry: Registry, **options: Any) -> events.TrainResult:
    changes = {"epochs": options.pop("epochs", 1)}
    return result_of(flow(images, registry, QUICK.model_copy(update=changes), **options))


def production(registry: Registry) -> int | None:
    alias = registry.alias("production")
    return None if alias is None else alias.version


# --- a strong model


STRONG = TRAIN.model_copy(update={"model": "airbench", "epochs": 2, "batch_size": 50})
NARROW = replace(airbench.RECIPE, arguments={"widths": [8, 16, 16]})


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strong model with few filters, which is quick on any processor."""
    monkeypatch.setattr(airbench, "RECIPE", NARROW)
