"""Offline training: the events of a run, reproducibility, divergence, promotion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import cifarctl, open_registry, small_data, small_train
from torch.nn import functional
from training_runs import (
    BATCHES,
    NORMALISED,
    QUICK,
    checkpoints,
    flow,
    production,
    result_of,
    run_again,
    same,
    told,
    weights,
)

from cifarctl import data, events
from cifarctl.data import Dataset, Split
from cifarctl.errors import TrainingDiverged
from cifarctl.flows import train as module
from cifarctl.models.optimiser import one_cycle
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.training import preparation
from cifarctl.training import run as training_run
from cifarctl.training.distribution import Team


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


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


def test_a_version_comes_with_its_metrics_and_plots(images: tuple[Dataset, Split], registry: Registry) -> None:
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
def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(
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


# --- promotion


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
    monkeypatch.setattr(preparation, "MAX_IMAGES_ON_DEVICE", most)
    monkeypatch.setattr(preparation, "BLOCK", 100)
    dataset, division = images
    run = preparation.prepare(NORMALISED, dataset.train, division.train, 10, Team(0, 1, torch.device("cpu")))
    assert len(run.images.pixels) == there
    list(run.train("synthetic", None, tmp_path / "checkpoint", None))
    assert same(run.model.state_dict(), expected)


# --- figures for others


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


# --- the real thing


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
