"""A strong model, and runs until they are good enough."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import cifarctl, open_registry, small_data, small_train
from training_runs import BATCHES, QUICK, STRONG, flow, result_of, told

from cifarctl import data, events
from cifarctl.data import Dataset, Split
from cifarctl.models.architectures.airbench import Airbench
from cifarctl.models.averaged import Averaged
from cifarctl.models.optimiser import one_cycle
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.training import run as training_run
from cifarctl.training.metrics import measure


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


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


def test_a_script_learns_that_the_target_was_not_reached(tmp_path: Path) -> None:
    ran = cifarctl(
        "train", "--json", "--epochs", "1", "--target-accuracy", "1", *small_data(500), *small_train(),
        f"--set=registry.dir={tmp_path}",
    )  # fmt: skip
    assert ran.exit_code == 6
    assert "below train.target_accuracy = 1" in ran.stderr
    document = json.loads(ran.stdout)
    assert (document["target_reached"], document["version"]) == (False, 1)


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
