"""Figures of a model on labelled images."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Home, cifarctl
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifarctl.data import Dataset, Images
from cifarctl.errors import DataError
from cifarctl.flows.evaluate import evaluate as evaluate_version
from cifarctl.models.predictor import Predictor
from cifarctl.registry.loading import load
from cifarctl.training.metrics import calibration_error, evaluate, measure


def probabilities(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_figures_worked_out_by_hand() -> None:
    found = measure(
        probabilities([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.3, 0.1], [0.0, 0.5, 0.5]]),
        torch.tensor([0, 1, 1, 1]),
    )
    assert found.accuracy == 0.75
    assert found.loss == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.5)) / 4)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert found.per_class == (1.0, pytest.approx(2 / 3), None)  # of the third class there was no image
    # Each image has a bin of its own but 0.5 and 0.6, which are right and wrong: |1−.9| + |1−.8| + |0−.6| + |1−.5|.
    assert found.ece == pytest.approx((0.1 + 0.2 + 0.6 + 0.5) / 4)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0.3, 1.0)), min_size=1, max_size=60),
)
def test_figures_agree_with_each_other(cases: list[tuple[int, int, float]]) -> None:
    labels = torch.tensor([label for label, _, _ in cases])
    rows = torch.zeros(len(cases), 5)
    for row, (_, chosen, confidence) in zip(rows, cases, strict=True):
        row.fill_((1 - confidence) / 4)
        row[chosen] = confidence
    found = measure(rows, labels)
    assert int(found.confusion.sum()) == len(cases)
    assert found.confusion.sum(dim=1).tolist() == torch.bincount(labels, minlength=5).tolist()
    assert found.accuracy == pytest.approx(int(found.confusion.diagonal().sum()) / len(cases))
    for label, share in enumerate(found.per_class):
        own = [chosen == label for truth, chosen, _ in cases if truth == label]
        assert share == (sum(own) / len(own) if own else None)
    assert 0 <= found.ece <= 1
    assert found.loss >= 0


def test_sure_and_right_is_perfectly_calibrated() -> None:
    assert calibration_error(torch.ones(10), torch.ones(10, dtype=torch.bool)) == 0
    assert calibration_error(torch.ones(10), torch.zeros(10, dtype=torch.bool)) == 1


def test_as_sure_as_right_is_well_calibrated() -> None:
    confidence = torch.full((1000,), 0.7)
    correct = torch.arange(1000) < 700
    assert calibration_error(confidence, correct) == pytest.approx(0, abs=1e-6)
    assert calibration_error(confidence, torch.arange(1000) < 500) == pytest.approx(0.2, abs=1e-6)


def test_errors_of_one_bin_do_not_make_up_for_those_of_another() -> None:
    confidence = torch.tensor([0.5] * 100 + [0.9] * 100)
    correct = torch.tensor([True] * 90 + [False] * 10 + [True] * 50 + [False] * 50)
    assert calibration_error(confidence, correct) == pytest.approx(0.4, abs=1e-6)


def test_a_label_that_was_thought_impossible_costs_much_but_not_everything() -> None:
    found = measure(probabilities([[1.0, 0.0]]), torch.tensor([1]))
    assert 20 < found.loss < 40


def test_nan_predictions_are_evaluated_too() -> None:
    """A diverged challenger must reach the gate, which refuses it, rather than end the learner."""
    found = measure(torch.full((6, 3), float("nan")), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert math.isnan(found.ece)
    assert math.isnan(found.loss)
    assert found.accuracy < 0.5


def test_a_model_is_measured_as_it_predicts() -> None:
    class First(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[5.0, 0.0]]).expand(len(images), 2)

    images = Images(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.tensor([0] * 7 + [1] * 3))
    found = evaluate(Predictor(First(), (0, 0, 0), (1, 1, 1), batch_size=4), images)
    assert found.accuracy == 0.7
    assert found.confusion.tolist() == [[7, 0], [3, 0]]


def test_a_version_is_measured_on_the_test_images(trained: Home) -> None:
    result = evaluate_version(load(trained.registry, 1), trained.dataset)
    manifest = trained.registry.manifest(1)
    assert result.version == 1
    assert result.accuracy == pytest.approx(manifest.metrics["test_accuracy"])
    assert result.loss == pytest.approx(manifest.metrics["test_loss"], rel=1e-3)
    assert list(result.per_class) == list(trained.dataset.classes)
    assert sum(map(sum, result.confusion)) == len(trained.dataset.test)
    assert 0.5 < result.accuracy < 1
    assert 0 < result.ece < 0.5


def test_a_version_of_other_classes_is_refused(trained: Home) -> None:
    dataset = trained.dataset
    other = Dataset("folder", ("cat", "dog", "emu"), dataset.train, dataset.test, None)
    with pytest.raises(DataError, match=r"version 1 knows the classes disc, square, triangle, .* folder has cat, dog"):
        evaluate_version(load(trained.registry, 1), other)


def test_versions_that_cannot_be_measured(home: Home) -> None:
    absent = cifarctl("eval", "--version", "9", *home.options)
    assert (absent.exit_code, "no version 9 in " in absent.stderr) == (4, True), absent.stderr
    path = home.registry.path(1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    damaged = cifarctl("eval", "--version", "1", *home.options)
    assert (damaged.exit_code, "version 1: " in damaged.stderr) == (4, True), damaged.stderr
