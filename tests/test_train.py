"""Offline training: the schedule, reproducibility, interruption and resumption, divergence, promotion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import DATA, TRAIN, cifarctl, load_data, open_registry, small_data, small_train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cifarctl import data, events, models
from cifarctl.data import Dataset, Split
from cifarctl.errors import RegistryError, SettingsError, TrainingDiverged
from cifarctl.flows import train as module
from cifarctl.flows.train import train
from cifarctl.models import compiling
from cifarctl.models.architectures import airbench
from cifarctl.models.architectures.airbench import Airbench
from cifarctl.models.averaged import Averaged
from cifarctl.models.optimiser import one_cycle
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.settings import DataSettings, RegistrySettings, Settings, TrainSettings
from cifarctl.training import run as training_run
from cifarctl.training.distribution import Team
from cifarctl.training.metrics import measure
from cifarctl.training.run import cycle

SMALL = DataSettings(source="synthetic", synthetic_images=500)  # 350 training images: 10 batches of 32 an epoch
QUICK = TRAIN.model_copy(update={"epochs": 3})
BATCHES = 10


@pytest.fixture(scope="module")
def images() -> tuple[Dataset, Split]:
    return load_data(SMALL)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


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


# --- the whole run


def test_the_events_of_a_run(images: tuple[Dataset, Split], registry: Registry, monkeypatch: Any) -> None:
    monkeypatch.setattr(training_run, "PROGRESS_INTERVAL", 0.0)  # every batch
    found = list(flow(images, registry))
    started, result = found[0], found[-1]
    assert isinstance(started, events.TrainStarted)
    assert (started.images, started.epochs, started.first_epoch, started.batches) == (350, 3, 1, BATCHES)
    assert (started.model, started.parameters, started.data) == ("net", 122_570, "synthetic")
    progress = [event for event in found if isinstance(event, events.TrainProgress)]
    assert [(event.epoch, event.batch) for event in progress] == [
        (epoch, batch) for epoch in (1, 2, 3) for batch in range(1, BATCHES + 1)
    ]
    assert [event.learning_rate for event in progress] == pytest.approx(
        [one_cycle(step, 30, 8e-3) for step in range(30)]
    )
    assert progress[-1].seconds_left == 0
    epochs = [event for event in found if isinstance(event, events.EpochDone)]
    assert [event.epoch for event in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss
    assert isinstance(result, events.TrainResult)
    assert (result.version, result.model, result.epochs, result.train_images) == (1, "net", 3, 350)
    assert result.validation_accuracy == epochs[-1].validation_accuracy
    assert result.images_per_second > 0


def test_a_version_comes_with_its_figures_and_with_what_is_drawn_of_them(
    images: tuple[Dataset, Split], registry: Registry
) -> None:
    reports: list[events.TrainReport] = []

    def illustrate(report: events.TrainReport) -> dict[str, bytes]:
        reports.append(report)
        return {"picture.png": b"a picture"}

    found = list(flow(images, registry, illustrate=illustrate))
    result, (report,) = result_of(found), reports
    epochs = [event for event in found if isinstance(event, events.EpochDone)]
    assert told(registry, result.version) == [asdict(event) for event in epochs] == [*map(asdict, report.epochs)]
    assert [path.name for path in registry.plots(result.version)] == ["metrics.jsonl", "picture.png"]
    assert registry.plots(result.version)[1].read_bytes() == b"a picture"

    test, classes = images[0].test, len(images[0].classes)
    answers = load(registry, result.version).predictor()(test.pixels)
    assert report.test_accuracy == result.test_accuracy
    assert sum(map(sum, report.confusion)) == len(test)
    assert sum(report.confusion[label][label] for label in range(classes)) == round(result.test_accuracy * len(test))
    confidences = [mistake.confidence for mistake in report.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    wrong = answers[answers.argmax(dim=1) != test.labels].amax(dim=1).sort(descending=True).values
    assert confidences == pytest.approx(wrong[:25].tolist(), abs=1e-6)
    for mistake in report.mistakes:
        (place,) = (test.pixels == torch.from_numpy(mistake.pixels)).flatten(1).all(dim=1).nonzero().flatten().tolist()
        assert (mistake.label, mistake.predicted) == (int(test.labels[place]), int(answers[place].argmax()))
        assert mistake.label != mistake.predicted


def test_a_model_is_not_lost_where_drawing_fails(images: tuple[Dataset, Split], registry: Registry) -> None:
    def illustrate(report: events.TrainReport) -> dict[str, bytes]:
        raise ValueError("no such font")

    found = list(flow(images, registry, QUICK.model_copy(update={"epochs": 1}), illustrate=illustrate))
    assert any(isinstance(event, events.Notice) and "no such font" in event.message for event in found)
    assert [path.name for path in registry.plots(result_of(found).version)] == ["metrics.jsonl"]


def test_the_manifest_tells_what_the_version_is(images: tuple[Dataset, Split], registry: Registry) -> None:
    result = result_of(flow(images, registry))
    dataset, split = images
    manifest = registry.manifest(result.version)
    assert (manifest.model, manifest.arguments, manifest.origin) == ("net", {"classes": 10}, "train")
    assert manifest.classes == dataset.classes
    assert (manifest.split.source, manifest.split.sha256, manifest.split.seen) == (
        "synthetic",
        split.sha256,
        ("train",),
    )
    assert manifest.metrics["validation_accuracy"] == result.validation_accuracy
    assert manifest.metrics["test_accuracy"] == result.test_accuracy
    recipe = {"optimiser": "adamw", "learning_rate": 8e-3, "tta": "none", "epochs": 3, "batch_size": 32}
    assert manifest.settings.items() >= recipe.items()
    assert checkpoints(registry) == []


def test_normalisation_is_that_of_the_training_images(images: tuple[Dataset, Split], registry: Registry) -> None:
    dataset, split = images
    manifest = registry.manifest(result_of(flow(images, registry)).version)
    pixels = dataset.train.pixels[split.train].double() / 255
    assert manifest.normalisation.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-6)
    assert manifest.normalisation.std == pytest.approx(
        pixels.permute(1, 0, 2, 3).flatten(1).std(dim=1, correction=0).tolist(), abs=1e-6
    )


def test_training_learns(trained: Any) -> None:
    manifest = trained.registry.manifest(1)
    assert manifest.metrics["test_accuracy"] > 0.5


def test_validation_and_stream_images_are_not_trained_on(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, split = images
    seen: list[torch.Tensor] = []

    def watching(pixels: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(pixels.flatten(1).long().sum(dim=1))
        return data.augment(pixels, *arguments, **options)

    monkeypatch.setattr(training_run, "augment", watching)
    result_of(flow(images, registry))
    read = set(torch.cat(seen).tolist())
    sums = dataset.train.pixels.flatten(1).long().sum(dim=1)
    allowed = set(sums[split.train].tolist())
    assert read <= allowed
    assert len(read) > 0.9 * len(allowed)
    for part in (split.validation, split.stream):
        assert not set(sums[part].tolist()) <= allowed  # else the sums would tell nothing apart


def test_an_unknown_architecture_trains_nothing(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(SettingsError, match=r"train\.model = nope"):
        list(flow(images, registry, QUICK.model_copy(update={"model": "nope"})))
    assert registry.numbers() == []


def test_batches_larger_than_the_data(images: tuple[Dataset, Split], registry: Registry) -> None:
    settings = QUICK.model_copy(update={"batch_size": 10_000, "epochs": 1})
    started, *_ = found = list(flow(images, registry, settings))
    assert isinstance(started, events.TrainStarted)
    assert started.batches == 1
    assert result_of(found).version == 1


# --- reproducibility


def test_the_same_seed_gives_the_same_weights(images: tuple[Dataset, Split], registry: Registry) -> None:
    settings = QUICK.model_copy(update={"epochs": 1})
    first = result_of(flow(images, registry, settings)).version
    torch.manual_seed(99)  # what else goes on in the process does not matter
    second = result_of(flow(images, registry, settings)).version
    other = result_of(flow(images, registry, settings.model_copy(update={"seed": 2}))).version
    assert same(weights(registry, first), weights(registry, second))
    assert not same(weights(registry, first), weights(registry, other))
    assert registry.manifest(first).sha256 == registry.manifest(second).sha256


def test_training_leaves_the_global_generator_alone(images: tuple[Dataset, Split], registry: Registry) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    result_of(flow(images, registry, QUICK.model_copy(update={"epochs": 1})))
    assert torch.equal(torch.rand(3), expected)


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

from test_train import NARROW, SMALL, TrainSettings, airbench, chosen, functional, load_data, module, torch
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
    dead = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=Path(__file__).parent, timeout=120)
    assert dead.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    "deaths",
    [[("step", 1)], [("rename", 3)], [("step", 2 * BATCHES + 3), ("end", 1)]],
    ids=lambda deaths: ", ".join(f"{place} {times}" for place, times in deaths),
)
@pytest.mark.slow
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


def test_the_time_before_an_interruption_counts(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is left to do but to publish."""
    settings = QUICK.model_copy(update={"epochs": 1})
    with monkeypatch.context() as patch:
        list(flow(images, registry, settings, stop=stop_at_step(BATCHES, patch)))
    result = result_of(flow(images, registry, settings, resume=True))
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(320 / result.seconds)


def test_without_a_checkpoint_there_is_nothing_to_resume(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"nothing to resume.*leave out --resume"):
        list(flow(images, registry, resume=True))


@pytest.mark.parametrize(
    "change",
    [{"epochs": 4}, {"seed": 2}, {"learning_rate": 1e-3}, {"batch_size": 64}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_do_not_resume_this_run(
    change: dict[str, Any], images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        list(flow(images, registry, stop=stop_at_step(2, patch)))
    with pytest.raises(RegistryError, match="repeat the options of the interrupted run"):
        list(flow(images, registry, QUICK.model_copy(update=change), resume=True))
    with pytest.raises(RegistryError, match="nothing to resume"):
        list(flow(images, registry, full=True, resume=True))


def test_without_resume_a_run_begins_afresh(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        list(flow(images, registry, stop=stop_at_step(15, patch)))
    started, *_ = found = list(flow(images, registry))
    assert isinstance(started, events.TrainStarted)
    assert started.first_epoch == 1
    assert result_of(found).version == 1


def test_a_damaged_checkpoint_is_named(images: tuple[Dataset, Split], registry: Registry, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        list(flow(images, registry, stop=stop_at_step(2, patch)))
    (path,) = checkpoints(registry)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RegistryError, match=rf"{path.name} cannot be read .*move it away"):
        list(flow(images, registry, resume=True))


# --- compiled

COMPILER = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="no C++ compiler")


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


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_a_compiler_a_run_is_what_it_would_be_without_compiling(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    plain = result_of(flow(images, registry, NORMALISED.model_copy(update={"compile": "off"}))).version
    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(compiling, "COMPILING_S", 0.0)  # auto: every run is long enough
    found = list(flow(images, registry, NORMALISED.model_copy(update={"compile": wanted})))
    cause = "RuntimeError: InvalidCxxCompiler: no working C++ compiler found"
    assert notices(found) == [f"torch.compile fails here ({cause}); trained without it"]
    assert same(weights(registry, result_of(found).version), weights(registry, plain))


def test_a_short_run_is_not_compiled(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", no_compiler)
    found = list(flow(images, registry, NORMALISED))
    assert result_of(found)
    assert notices(found) == []


@pytest.mark.parametrize(("slower", "compiled"), [(2.0, False), (0.5, True)])
def test_what_is_compiled_must_be_faster(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, slower: float, compiled: bool
) -> None:
    """As far as `auto` can tell: here a step takes as many seconds as it is told."""

    def seconds(model: nn.Module, *_: object, **__: object) -> float:
        return 100.0 * (slower if isinstance(model, Compiled) else 1.0)

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr(compiling, "fastest", seconds)
    assert bool(notices(flow(images, registry, NORMALISED))) == compiled


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_what_is_compiled_must_have_finite_gradients(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    class Spoilt(Compiled):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits = super().forward(inputs)
            logits.register_hook(lambda gradient: gradient * float("nan"))
            return logits

    plain = result_of(flow(images, registry, NORMALISED.model_copy(update={"compile": "off"}))).version
    monkeypatch.setattr(torch, "compile", Spoilt)
    monkeypatch.setattr(compiling, "COMPILING_S", 0.0)  # auto: every run is long enough
    found = list(flow(images, registry, NORMALISED.model_copy(update={"compile": wanted})))
    assert notices(found) == ["torch.compile makes gradients that are not finite; trained without it"]
    assert same(weights(registry, result_of(found).version), weights(registry, plain))


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


@COMPILER
@pytest.mark.slow
def test_the_strong_model_can_be_compiled() -> None:
    """The maximum of what is recomputed in another precision has no place: its gradient would be 0/0."""
    device = torch.device("cpu")
    arguments = {"classes": 10, "tta": "flip-shift", **airbench.RECIPE.arguments}
    model = models.build("airbench", arguments).to(memory_format=torch.channels_last)
    assert compiling.compiled("on", model, device, "bfloat16", batch=8, steps={32: 1}) is not None


@COMPILER
@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_resumes(images: tuple[Dataset, Split], registry: Registry) -> None:
    settings = NORMALISED.model_copy(update={"compile": "on"})
    eager = weights(registry, result_of(flow(images, registry, NORMALISED)).version)
    found = list(flow(images, registry, settings))
    assert notices(found) == ["a step of training is compiled (torch.compile)"]
    mine = weights(registry, result_of(found).version)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        begun = models.build("net-bn", {"classes": 10}).state_dict()
    for name in (name for name, tensor in mine.items() if tensor.ndim == 4):
        assert (mine[name] - eager[name]).abs().mean() < 0.1 * (mine[name] - begun[name]).abs().mean()
    with pytest.MonkeyPatch.context() as patch:
        found = list(flow(images, registry, settings, stop=stop_at_step(4, patch)))
    assert "--resume" in notices(found)[-1]
    again = result_of(flow(images, registry, settings, resume=True))
    assert same(weights(registry, again.version), mine)


# --- divergence


def diverging(step: int, value: float) -> Callable[..., torch.Tensor]:
    original, done = functional.cross_entropy, 0

    def loss(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        found = original(*arguments, **options)
        return found * value if done == step else found

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    value: float,
    images: tuple[Dataset, Split],
    registry: Registry,
    uninterrupted: tuple[dict[str, torch.Tensor], list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = BATCHES + 4
    with monkeypatch.context() as patch:
        patch.setattr(functional, "cross_entropy", diverging(step, value))
        with pytest.raises(TrainingDiverged) as caught:
            list(flow(images, registry))
    message = str(caught.value)
    assert f"the loss is {value} at step {step} (epoch 2, batch 4)" in message
    assert "lower train.learning_rate (now 0.008)" in message
    assert registry.numbers() == []
    # The checkpoint is that of the last whole epoch, and good: from it the run comes to its normal end.
    found = list(flow(images, registry, resume=True))
    assert isinstance(found[0], events.TrainStarted)
    assert found[0].first_epoch == 2
    assert same(weights(registry, result_of(found).version), uninterrupted[0])


def test_a_learning_rate_that_is_far_too_high(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+ .*train\.learning_rate \(now 1e\+30\)"):
        list(flow(images, registry, QUICK.model_copy(update={"learning_rate": 1e30})))
    assert registry.numbers() == []


# --- promotion


def run_again(images: tuple[Dataset, Split], registry: Registry, **options: Any) -> events.TrainResult:
    changes = {"epochs": options.pop("epochs", 1)}
    return result_of(flow(images, registry, QUICK.model_copy(update=changes), **options))


def production(registry: Registry) -> int | None:
    alias = registry.alias("production")
    return None if alias is None else alias.version


def test_the_first_version_is_promoted(images: tuple[Dataset, Split], registry: Registry) -> None:
    result = run_again(images, registry)
    assert result.promoted
    assert result.reason == "there was no production version"
    assert production(registry) == 1
    (move,) = registry.history()
    assert (move.who, move.why, move.to_version) == ("train", result.reason, 1)


@pytest.mark.slow
def test_only_a_better_version_is_promoted(images: tuple[Dataset, Split], registry: Registry) -> None:
    first = run_again(images, registry, epochs=1)
    better = run_again(images, registry, epochs=4)
    assert first.validation_accuracy is not None
    assert better.validation_accuracy is not None
    assert better.validation_accuracy > first.validation_accuracy
    assert better.promoted
    assert f"against {first.validation_accuracy:.4f} of production version 1" in better.reason
    worse, equal = run_again(images, registry, epochs=1), run_again(images, registry, epochs=4)
    assert not worse.promoted
    assert equal.validation_accuracy == better.validation_accuracy
    assert not equal.promoted
    assert production(registry) == 2


@pytest.mark.slow
def test_promotion_can_be_forced_and_forbidden(images: tuple[Dataset, Split], registry: Registry) -> None:
    forbidden = run_again(images, registry, promote=False)
    assert (forbidden.promoted, forbidden.reason, production(registry)) == (False, "by --no-promote", None)
    assert run_again(images, registry, epochs=3).promoted
    forced = run_again(images, registry, promote=True)
    assert (forced.promoted, forced.reason, production(registry)) == (True, "by --promote", 3)


def test_full_training_sees_all_and_is_not_compared(images: tuple[Dataset, Split], registry: Registry) -> None:
    first = run_again(images, registry, full=True)
    assert (first.train_images, first.validation_accuracy) == (500, None)
    assert registry.manifest(1).split.seen == ("train", "validation", "stream")
    assert first.promoted  # there was nothing to compare it with
    second = run_again(images, registry, full=True)
    assert not second.promoted
    assert "cannot be compared; --promote forces it" in second.reason
    assert run_again(images, registry, full=True, promote=True).promoted
    assert production(registry) == 3


def test_a_production_version_that_cannot_be_loaded_is_replaced(
    images: tuple[Dataset, Split], registry: Registry
) -> None:
    run_again(images, registry, epochs=3)
    (registry.path(1) / "model.safetensors").write_bytes(b"broken")
    result = run_again(images, registry)
    assert result.promoted
    assert "production version 1 cannot be loaded" in result.reason


def test_a_version_of_other_classes_is_not_compared(images: tuple[Dataset, Split], registry: Registry) -> None:
    run_again(images, registry)
    dataset, split = images
    renamed = Dataset("other", dataset.classes[::-1], dataset.train, dataset.test, None)
    result = run_again((renamed, split), registry, epochs=4)
    assert not result.promoted
    assert "other classes; --promote forces it" in result.reason


# --- the schedule


@given(steps=st.integers(1, 3000), peak=st.floats(1e-6, 10))
def test_one_cycle_rises_once_and_falls_to_almost_nothing(steps: int, peak: float) -> None:
    rates = [one_cycle(step, steps, peak) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[0] == pytest.approx(peak / 25) or steps <= 4
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps >= 100:
        assert top == pytest.approx(0.25 * steps, abs=1)
        assert rates[top] == pytest.approx(peak, rel=0.01)
        assert rates[-1] < peak / 500


@given(epochs=st.integers(1, 60), first=st.one_of(st.none(), st.integers(1, 70)))
def test_cycles_follow_each_other_each_twice_as_long(epochs: int, first: int | None) -> None:
    found = list(dict.fromkeys(cycle(epoch, epochs, first) for epoch in range(1, epochs + 1)))
    assert [begin for begin, _ in found] == [1, *(end + 1 for _, end in found[:-1])]
    assert found[-1][1] == epochs
    if first is None:
        assert len(found) == 1
    else:
        lengths = [end - begin + 1 for begin, end in found]
        assert lengths[:-1] == [first * 2**number for number in range(len(found) - 1)]
        assert lengths[-1] >= min(first, epochs)
        assert lengths[-1] < first * 2 ** (len(found) - 1) + first


# --- on an accelerator


@pytest.mark.parametrize(("most", "there"), [(350, 350), (349, 500)])
def test_images_brought_to_an_accelerator_give_the_same_weights(
    images: tuple[Dataset, Split],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    most: int,
    there: int,
) -> None:
    """Those that are trained on, where it can hold so many; shown on a processor that passes for an accelerator."""
    expected = weights(registry, result_of(flow(images, registry, NORMALISED)).version)
    monkeypatch.setattr(Team, "accelerated", True)
    monkeypatch.setattr(training_run, "MOST_THERE", most)
    monkeypatch.setattr(training_run, "BLOCK", 100)
    dataset, division = images
    run = training_run.Run.start(NORMALISED, dataset.train, division.train, 10, Team(0, 1, torch.device("cpu")))
    assert len(run.images.pixels) == there
    list(run.train("synthetic", None, tmp_path / "checkpoint", None))
    assert same(run.model.state_dict(), expected)


# --- until it is good enough


def test_a_run_ends_once_the_validation_images_show_its_target(
    images: tuple[Dataset, Split], registry: Registry
) -> None:
    found = list(flow(images, registry, QUICK.model_copy(update={"epochs": 9, "target_accuracy": 0.3})))
    result = result_of(found)
    shown = [event.validation_accuracy or 0.0 for event in found if isinstance(event, events.EpochDone)]
    assert result.target_reached
    assert (result.epochs, len(told(registry, result.version))) == (len(shown), len(shown))
    assert shown[-1] >= 0.3 > max(shown[:-1], default=0.0)
    assert len(shown) < 9


@pytest.mark.slow
def test_the_learning_rate_rises_again_where_a_cycle_was_not_enough(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "PROGRESS_INTERVAL", 0.0)
    found = list(flow(images, registry, QUICK.model_copy(update={"epochs": 9, "target_accuracy": 1.0})))
    rates = [event.learning_rate for event in found if isinstance(event, events.TrainProgress)]
    expected = [one_cycle(step, steps, 8e-3) for steps in (4 * BATCHES, 5 * BATCHES) for step in range(steps)]
    assert rates == pytest.approx(expected)
    result = result_of(found)
    assert (result.target_reached, result.epochs) == (False, 9)
    assert registry.numbers() == [result.version]  # it is kept all the same


@pytest.mark.slow
def test_a_script_learns_that_the_target_was_not_reached(tmp_path: Path) -> None:
    ran = cifarctl(
        "train", "--json", "--epochs", "1", "--target-accuracy", "1", *small_data(500), *small_train(),
        f"--set=registry.dir={tmp_path}",
    )  # fmt: skip
    assert ran.exit_code == 6
    assert "do not show train.target_accuracy = 1" in ran.stderr
    document = json.loads(ran.stdout)
    assert (document["target_reached"], document["version"]) == (False, 1)


def test_with_all_images_there_is_no_target(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(SettingsError, match="--full"):
        list(flow(images, registry, QUICK.model_copy(update={"target_accuracy": 0.5}), full=True))


# --- figures for others


@pytest.mark.slow
def test_figures_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ran = cifarctl(
        "train", "--json", "--epochs", "2", "--log", "tensorboard", *small_data(500), *small_train(),
        f"--set=registry.dir={tmp_path}", "--set=train.tta=flip",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    (folder,) = (tmp_path / "tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    lines = told(open_registry(tmp_path), 1)
    shown = [(point.step, point.value) for point in found.Scalars("validation/accuracy")]
    assert [step for step, _ in shown] == [BATCHES, 2 * BATCHES]
    assert [value for _, value in shown] == pytest.approx([line["validation_accuracy"] for line in lines])
    averaged = {point.step: point.value for point in found.Scalars("validation/accuracy_tta")}
    assert averaged == pytest.approx({2 * BATCHES: lines[-1]["validation_accuracy_tta"]})
    losses = {point.step: point.value for point in found.Scalars("train/loss")}
    assert losses[2 * BATCHES] == pytest.approx(lines[-1]["loss"])
    assert {"train/learning_rate", "train/images_per_second"} <= set(found.Tags()["scalars"])


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ran = cifarctl("train", "--log", "tensorboard", *small_data(500), f"--set=registry.dir={tmp_path}")
    assert ran.exit_code == 2
    assert "pip install tensorboard" in ran.stderr


# --- augmentation


def test_each_image_is_mirrored_in_every_other_epoch(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored: list[dict[int, bool]] = [{}, {}, {}]
    seen = 0

    def watching(pixels: torch.Tensor, *arguments: Any, flip: torch.Tensor, **options: Any) -> torch.Tensor:
        nonlocal seen
        keys = pixels.flatten(1).long().sum(dim=1).tolist()
        mirrored[seen // BATCHES] |= dict(zip(keys, flip.tolist(), strict=True))
        seen += 1
        return data.augment(pixels, *arguments, flip=flip, **options)

    monkeypatch.setattr(training_run, "augment", watching)
    result_of(flow(images, registry))
    first, second, third = mirrored
    assert 100 < sum(first.values()) < 250
    assert all(first[key] != second[key] for key in first.keys() & second.keys())
    assert all(first[key] == third[key] for key in first.keys() & third.keys())
    assert len(first.keys() & second.keys() & third.keys()) > 200


# --- a strong model

STRONG = TRAIN.model_copy(update={"model": "airbench", "epochs": 2, "batch_size": 50})
NARROW = replace(airbench.RECIPE, arguments={"widths": [8, 16, 16]})


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strong model with few filters, which is quick on any processor."""
    monkeypatch.setattr(airbench, "RECIPE", NARROW)


@pytest.mark.usefixtures("narrow")
def test_a_strong_model_takes_its_own_recipe(images: tuple[Dataset, Split], registry: Registry) -> None:
    result = result_of(flow(images, registry, STRONG))
    manifest = registry.manifest(result.version)
    recipe = {"optimiser": "muon", "learning_rate": 0.24, "label_smoothing": 0.2, "batch_size": 50}
    assert manifest.settings.items() >= recipe.items()
    assert manifest.arguments == {"classes": 10, "tta": "flip-shift", "widths": [8, 16, 16]}
    loaded = load(registry, result.version)
    averaged = measure(loaded.predictor()(images[0].test.pixels), images[0].test.labels).accuracy
    assert (result.test_accuracy_tta, manifest.metrics["test_accuracy_tta"]) == (averaged, averaged)
    assert isinstance(loaded.model, Averaged)
    alone = Predictor(loaded.model.network, manifest.normalisation.mean, manifest.normalisation.std)
    plain = measure(alone(images[0].test.pixels), images[0].test.labels).accuracy
    assert (result.test_accuracy, manifest.metrics["test_accuracy"]) == (plain, plain)
    assert result.validation_accuracy == told(registry, result.version)[-1]["validation_accuracy"]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("plain", "averaged", "epochs"), [(0.5, 0.6, 4), (0.6, 0.5, 9), (0.6, 0.6, 1)])
@pytest.mark.slow
def test_the_target_is_for_the_answers_that_the_version_gives(
    images: tuple[Dataset, Split],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    plain: float,
    averaged: float,
    epochs: int,
) -> None:
    """They are averaged where a cycle ends, which is after four epochs and after nine, and where it is plausible."""

    def judged(predictor: Predictor, _: object) -> SimpleNamespace:
        return SimpleNamespace(accuracy=averaged if isinstance(predictor.model, Averaged) else plain)

    monkeypatch.setattr(training_run, "evaluate", judged)
    result = result_of(flow(images, registry, STRONG.model_copy(update={"epochs": 9, "target_accuracy": 0.55})))
    assert (result.target_reached, result.epochs) == (averaged > 0.55, epochs)
    assert (result.validation_accuracy, result.validation_accuracy_tta) == (plain, averaged)
    shown = [line["validation_accuracy_tta"] for line in told(registry, result.version)]
    often = plain > 0.55
    assert shown == [averaged if often or epoch == 3 or epoch == epochs - 1 else None for epoch in range(epochs)]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("target", "sides", "steps"),
    [(None, [32, 32, 32, 32], {32: 28}), (1.0, [24, 24, 32, 32], {24: 14, 32: 14})],
)
def test_on_the_way_to_a_target_the_first_images_are_smaller(
    images: tuple[Dataset, Split],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    target: float | None,
    sides: list[int],
    steps: dict[int, int],
) -> None:
    """And what compiling costs is weighed against that."""
    seen: list[int] = []
    weighed: list[dict[int, int]] = []
    forward = Airbench.forward

    def seeing(self: Airbench, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(pixels.shape[-1])
        return forward(self, pixels)

    def never(_: str, *, steps: dict[int, int], **__: object) -> None:
        weighed.append(steps)

    monkeypatch.setattr(Airbench, "forward", seeing)
    monkeypatch.setattr(training_run, "compiled", never)
    settings = STRONG.model_copy(update={"epochs": 4, "target_accuracy": target, "precision": "float32"})
    list(flow(images, registry, settings))
    assert seen == [side for side in sides for _ in range(7)]
    assert weighed == [steps]


@pytest.mark.usefixtures("narrow")
def test_answers_are_averaged_only_where_that_is_wanted(images: tuple[Dataset, Split], registry: Registry) -> None:
    plain = result_of(flow(images, registry, STRONG.model_copy(update={"epochs": 1, "tta": "none"})))
    assert plain.test_accuracy_tta is None
    assert registry.manifest(plain.version).arguments == {"classes": 10, "widths": [8, 16, 16]}
    small = result_of(flow(images, registry, QUICK.model_copy(update={"epochs": 1, "tta": "flip"})))
    assert small.test_accuracy_tta is not None
    assert registry.manifest(small.version).arguments == {"classes": 10, "tta": "flip"}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("step", "target"), [(3, None), (7, None), (13, None), (3, 1.0), (10, 1.0)])
@pytest.mark.slow
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
@pytest.mark.slow
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


# --- the real thing


@pytest.mark.cifar10
@pytest.mark.slow
def test_one_epoch_of_cifar10_is_well_above_chance(cifar10_dir: Path, tmp_path: Path) -> None:
    result = cifarctl(
        "train", "--json", "--epochs", "1", f"--set=data.dir={cifar10_dir}", "--set=data.source=cifar10",
        f"--set=registry.dir={tmp_path / 'registry'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["train_images"] == 35_000
    assert document["validation_accuracy"] > 0.45
    assert document["test_accuracy"] > 0.45
    manifest = open_registry(tmp_path / "registry").manifest(document["version"])
    assert (manifest.split.source, manifest.split.seen) == ("cifar10", ("train",))


def test_the_default_data_settings_have_not_crept_in(trained: Any) -> None:
    """The helpers' registry is of small synthetic data; otherwise every test here would be slow."""
    assert len(trained.dataset.train) == DATA.synthetic_images


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        done = spoilt(self, *arguments, **options)
        if next(iter(self.state.values()))["step"].item() == 2 * BATCHES:  # the last step of the second epoch
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0, 0, 0] = float("nan")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(TrainingDiverged, match=r"weights are not finite after step 20 .*last whole epoch is kept"):
            list(flow(images, registry))
    found = list(flow(images, registry, resume=True))
    assert isinstance(found[0], events.TrainStarted)
    assert found[0].first_epoch == 2


@pytest.mark.slow
def test_two_trainers_that_finish_together_are_both_judged(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result_of(flow(images, registry))
    better = module._better
    raced = []

    def race(*arguments: Any) -> tuple[bool, str]:
        verdict = better(*arguments)
        if not raced:  # somebody else moves the alias between our look at it and our move
            raced.append(True)
            registry.promote(1, who="other", why="faster")
            registry.promote(other, who="other", why="faster")
        return verdict

    other = result_of(flow(images, registry, promote=False)).version
    monkeypatch.setattr(module, "_better", race)
    last = result_of(flow(images, registry, QUICK.model_copy(update={"epochs": 6})))
    assert first.version == 1
    assert f"of production version {other}" in last.reason
    assert registry.resolve("production") == (last.version if last.promoted else other)
