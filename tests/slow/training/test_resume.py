"""Training that was interrupted or killed, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import helpers
import pytest
import torch
from helpers import open_registry
from training_runs import BATCHES, QUICK, STRONG, checkpoints, flow, result_of, same, stop_at_step, told, weights

from cifarctl import events
from cifarctl.data import Dataset, Split
from cifarctl.registry import Registry
from cifarctl.settings import TrainSettings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


# --- interruption


@pytest.mark.parametrize("steps", [(1,), (4,), (BATCHES,), (BATCHES + 1,), (2 * BATCHES,), (29,), (30,), (3, 5, 9)])
def test_a_resumed_run_ends_as_if_it_had_never_been_interrupted(
    steps: tuple[int, ...],
    images: tuple[Dataset, Split],
    registry: Registry,
    uninterrupted: tuple[dict[str, torch.Tensor], list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`steps`: how many optimiser steps pass before each interruption, at the ends of epochs and in their midst."""
    losses: dict[int, float] = {}

    def note(found: list[events.TrainEvent]) -> None:
        losses.update({event.epoch: event.loss for event in found if isinstance(event, events.EpochDone)})

    for number, step in enumerate(steps):
        with monkeypatch.context() as patch:
            found = list(flow(images, registry, resume=number > 0, stop=stop_at_step(step, patch)))
        note(found)
        assert isinstance(found[-1], events.Notice)
        assert "--resume" in found[-1].message
        assert registry.numbers() == []
        assert len(checkpoints(registry)) == 1
    torch.manual_seed(123)  # a new process has another state
    found = list(flow(images, registry, resume=True))
    note(found)
    result = result_of(found)
    assert same(weights(registry, result.version), uninterrupted[0])
    assert losses == dict(enumerate(uninterrupted[1], 1))
    assert [(line["epoch"], line["loss"]) for line in told(registry, result.version)] == list(losses.items())
    assert isinstance(found[0], events.TrainStarted)
    assert found[0].first_epoch == sum(steps) // BATCHES + 1
    assert checkpoints(registry) == []


def test_a_run_that_was_abandoned_between_epochs_resumes(
    images: tuple[Dataset, Split],
    registry: Registry,
    uninterrupted: tuple[dict[str, torch.Tensor], list[float]],
) -> None:
    """As after kill -9: the generator is dropped after the second epoch's checkpoint."""
    run = flow(images, registry)
    for event in run:
        if isinstance(event, events.EpochDone) and event.epoch == 2:
            break
    run.close()  # type: ignore[attr-defined]
    found = list(flow(images, registry, resume=True))
    assert [event.epoch for event in found if isinstance(event, events.EpochDone)] == [3]
    assert same(weights(registry, result_of(found).version), uninterrupted[0])


# The whole process is killed when something is done for the so-manieth time: an optimiser step, a checkpoint about to
# be put in place, a version that is published but whose checkpoint is still there.
KILLED = """
import os, signal, sys
from pathlib import Path

def deadly(original, times):
    def call(*arguments, **options):
        nonlocal times
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call

import torch
from helpers import load_data
from training_runs import NARROW, SMALL, chosen
from torch.nn import functional
from cifarctl.flows import train as module
from cifarctl.models.architectures import airbench
from cifarctl.settings import TrainSettings
torch.set_num_threads(1)
airbench.RECIPE = NARROW
place, times, directory, resume = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "resume"
places = {"step": (functional, "cross_entropy"), "rename": (Path, "replace"), "end": (module.checkpoint, "discard")}
holder, name = places[place]
setattr(holder, name, deadly(getattr(holder, name), times))
settings = TrainSettings.model_validate_json(sys.argv[5])
list(module.train(load_data(SMALL)[0], chosen(directory, settings), resume=resume))
"""


def kill(registry: Registry, settings: TrainSettings, place: str, times: int, *, resume: bool = False) -> None:
    """Train in a process that ends as by kill -9."""
    words = [place, str(times), str(registry.dir), "resume" if resume else "afresh", settings.model_dump_json()]
    support = {"PYTHONPATH": str(Path(helpers.__file__).parent)}
    command = [sys.executable, "-c", KILLED, *words]
    dead = subprocess.run(command, env=os.environ | support, timeout=120)
    assert dead.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    "deaths",
    [[("step", 1)], [("rename", 3)], [("step", 2 * BATCHES + 3), ("end", 1)]],
    ids=lambda deaths: ", ".join(f"{place} {times}" for place, times in deaths),
)
def test_a_run_that_was_killed_resumes(
    deaths: list[tuple[str, int]],
    images: tuple[Dataset, Split],
    registry: Registry,
    uninterrupted: tuple[dict[str, torch.Tensor], list[float]],
) -> None:
    for number, (place, times) in enumerate(deaths):
        kill(registry, QUICK, place, times, resume=bool(number))
    result = result_of(flow(images, registry, resume=True))
    assert same(weights(registry, result.version), uninterrupted[0])
    assert [line["loss"] for line in told(registry, result.version)] == uninterrupted[1]


def test_a_run_stopped_at_once_resumes(
    images: tuple[Dataset, Split],
    registry: Registry,
    uninterrupted: tuple[dict[str, torch.Tensor], list[float]],
) -> None:
    stop = threading.Event()
    stop.set()
    assert isinstance(list(flow(images, registry, stop=stop))[-1], events.Notice)
    assert same(weights(registry, result_of(flow(images, registry, resume=True)).version), uninterrupted[0])


def test_without_resume_a_run_begins_afresh(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        list(flow(images, registry, stop=stop_at_step(15, patch)))
    started, *_ = found = list(flow(images, registry))
    assert isinstance(started, events.TrainStarted)
    assert started.first_epoch == 1
    assert result_of(found).version == 1


# --- a strong model


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("step", "target"), [(3, None), (7, None), (13, None), (3, 1.0), (10, 1.0)])
def test_a_run_with_two_optimisers_resumes(
    step: int, target: float | None, images: tuple[Dataset, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any epoch; on the way to a target the images of the first one are smaller."""
    settings = STRONG.model_copy(update={"target_accuracy": target})
    whole, parts = open_registry(tmp_path / "whole"), open_registry(tmp_path / "parts")
    expected = weights(whole, result_of(flow(images, whole, settings)).version)
    with monkeypatch.context() as patch:
        list(flow(images, parts, settings, stop=stop_at_step(step, patch)))
    assert same(weights(parts, result_of(flow(images, parts, settings, resume=True)).version), expected)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.usefixtures("narrow")
def test_a_run_with_two_optimisers_in_bfloat16_that_was_killed_resumes(
    images: tuple[Dataset, Split], tmp_path: Path
) -> None:
    settings = STRONG.model_copy(update={"precision": "bfloat16"})
    whole, parts = open_registry(tmp_path / "whole"), open_registry(tmp_path / "parts")
    expected = weights(whole, result_of(flow(images, whole, settings)).version)
    assert not same(expected, weights(whole, result_of(flow(images, whole, STRONG)).version)), "float32 gives others"
    kill(parts, settings, "step", 10)
    assert checkpoints(parts) != []
    assert same(weights(parts, result_of(flow(images, parts, settings, resume=True)).version), expected)
