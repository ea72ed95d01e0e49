"""Compiled training, and what it costs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import open_registry
from torch import nn
from training_runs import (
    BATCHES,
    NORMALISED,
    Compiled,
    checkpoints,
    flow,
    no_compiler,
    notices,
    result_of,
    stop_at_step,
)

from cifarctl.data import Dataset, Split
from cifarctl.errors import RegistryError
from cifarctl.models import compiling
from cifarctl.registry import Registry
from cifarctl.training import run as training_run


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


# --- interruption


def test_a_damaged_checkpoint_is_named(images: tuple[Dataset, Split], registry: Registry, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        list(flow(images, registry, stop=stop_at_step(2, patch)))
    (path,) = checkpoints(registry)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RegistryError, match=rf"{path.name} cannot be read .*move it away"):
        list(flow(images, registry, resume=True))


# --- compiled


def test_a_short_run_is_not_compiled(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", no_compiler)
    found = list(flow(images, registry, NORMALISED))
    assert result_of(found)
    assert notices(found) == []


@pytest.mark.parametrize(("slower", "compiled"), [(2.0, False), (0.5, True)])
def test_a_compiled_model_must_be_faster(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, slower: float, compiled: bool
) -> None:
    """As far as `auto` can tell: here a step takes as many seconds as it is told."""

    def seconds(model: nn.Module, *_: object, **__: object) -> float:
        return 100.0 * (slower if isinstance(model, Compiled) else 1.0)

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr(compiling, "fastest", seconds)
    assert bool(notices(flow(images, registry, NORMALISED))) == compiled


@pytest.mark.parametrize(("target", "steps"), [(None, {32: 9 * BATCHES}), (0.9, {32: 4 * BATCHES})])
def test_what_compiling_costs_is_weighed_against_the_steps_that_are_to_come(
    images: tuple[Dataset, Split],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    target: float | None,
    steps: dict[int, int],
) -> None:
    """With a target a run is hoped to end with its first cycle, of four epochs."""
    weighed: list[dict[int, int]] = []

    def never(_: str, *, steps: dict[int, int], **__: object) -> None:
        weighed.append(steps)

    monkeypatch.setattr(training_run, "compiled", never)
    settings = NORMALISED.model_copy(update={"epochs": 9, "target_accuracy": target})
    stopped = threading.Event()
    stopped.set()
    list(flow(images, registry, settings, stop=stopped))
    assert weighed == [steps]


def test_a_run_that_was_killed_in_its_first_epoch_is_not_measured_again(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled does not give the same weights to the last bit as what is not."""
    wanted: list[str] = []

    def found(how: str, model: nn.Module, **_: object) -> nn.Module:
        wanted.append(how)
        return model

    monkeypatch.setattr(training_run, "compiled", found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "autocast", killed)
        with pytest.raises(Killed):
            list(flow(images, registry, NORMALISED))
    assert result_of(flow(images, registry, NORMALISED, resume=True))
    assert wanted == ["auto", "on"]


class Killed(BaseException):
    """In place of a signal: nothing after it is done."""


def killed(*_: object) -> None:
    raise Killed
