"""Offline training: the schedule, reproducibility, interruption and resumption, divergence, promotion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DATA, cifarctl, open_registry, small_data
from training_runs import BATCHES, QUICK, flow, production, result_of, run_again, stop_at_step

from cifarctl import events
from cifarctl.data import Dataset, Split
from cifarctl.errors import RegistryError, SettingsError, TrainingDiverged
from cifarctl.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


# --- the whole run


def test_a_model_is_not_lost_where_drawing_fails(images: tuple[Dataset, Split], registry: Registry) -> None:
    def illustrate(report: events.TrainReport) -> dict[str, bytes]:
        raise ValueError("no such font")

    found = list(flow(images, registry, QUICK.model_copy(update={"epochs": 1}), illustrate=illustrate))
    assert any(isinstance(event, events.Notice) and "no such font" in event.message for event in found)
    assert [path.name for path in registry.plots(result_of(found).version)] == ["metrics.jsonl"]


def test_training_learns(trained: Any) -> None:
    manifest = trained.registry.manifest(1)
    assert manifest.metrics["test_accuracy"] > 0.5


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


def test_training_leaves_the_global_generator_alone(images: tuple[Dataset, Split], registry: Registry) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    result_of(flow(images, registry, QUICK.model_copy(update={"epochs": 1})))
    assert torch.equal(torch.rand(3), expected)


# --- interruption


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


# --- divergence


def test_a_learning_rate_that_is_far_too_high(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+ .*train\.learning_rate \(now 1e\+30\)"):
        list(flow(images, registry, QUICK.model_copy(update={"learning_rate": 1e30})))
    assert registry.numbers() == []


# --- promotion


def test_the_first_version_is_promoted(images: tuple[Dataset, Split], registry: Registry) -> None:
    result = run_again(images, registry)
    assert result.promoted
    assert result.reason == "there was no production version"
    assert production(registry) == 1
    (move,) = registry.history()
    assert (move.who, move.why, move.to_version) == ("train", result.reason, 1)


# --- until it is good enough


def test_with_all_images_there_is_no_target(images: tuple[Dataset, Split], registry: Registry) -> None:
    with pytest.raises(SettingsError, match="--full"):
        list(flow(images, registry, QUICK.model_copy(update={"target_accuracy": 0.5}), full=True))


# --- figures for others


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ran = cifarctl("train", "--log", "tensorboard", *small_data(500), f"--set=registry.dir={tmp_path}")
    assert ran.exit_code == 2
    assert "pip install tensorboard" in ran.stderr


# --- the real thing


def test_the_default_data_settings_have_not_crept_in(trained: Any) -> None:
    """The helpers' registry is of small synthetic data; otherwise every test here would be slow."""
    assert len(trained.dataset.train) == DATA.synthetic_images
