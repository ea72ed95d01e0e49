"""Predictions on the wire."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import GREY, ids

from cifarctl.stream.predictions import PredictionEncoder, decode_prediction
from cifarctl.stream.records import Decoded, Record

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def prediction(**changes: Any) -> bytes:
    """A message of the predictions topic."""
    fields: dict[str, Any] = {
        "id": "a",
        "label_predicted": 3,
        "confidence": 0.123456789,
        "label": 3,
        "offset": 42,
        "produced_at": 1_700_000_000_000,
    } | changes
    source = Record("cifar.images", 1, fields["offset"], fields["produced_at"], None, None, ())
    batch = Decoded(GREY[None], np.array([fields["label"]]), [fields["id"]], [source])
    encode = PredictionEncoder(NAMES, 7, "ab" * 32)
    guess, confidence = np.array([fields["label_predicted"]]), np.array([fields["confidence"]], np.float32)
    (value,) = encode(batch, guess, confidence, 1_700_000_000_005)
    return value


def test_prediction_on_the_wire() -> None:
    assert json.loads(prediction()) == {
        "id": "a",
        "label_predicted": 3,
        "class": "cat",
        "confidence": 0.123457,
        "label": 3,
        "correct": True,
        "model_version": 7,
        "model_sha256": "ab" * 32,
        "source": {"partition": 1, "offset": 42},
        "produced_at": 1_700_000_000_000,
        "predicted_at": 1_700_000_000_005,
    }
    assert json.loads(prediction(label=4))["correct"] is False


def test_without_a_label_nothing_is_correct_or_wrong() -> None:
    body = json.loads(prediction(label=-1, produced_at=-1))
    assert (body["label"], body["correct"], body["produced_at"]) == (None, None, None)


@given(ids, st.integers(0, 9), st.integers(-1, 9), st.floats(0, 1, width=32), st.integers(0, 2**60))
def test_predictions_come_back(id: str, guess: int, label: int, confidence: float, offset: int) -> None:
    back = decode_prediction(
        prediction(id=id, label_predicted=guess, label=label, confidence=confidence, offset=offset)
    )
    known = None if label < 0 else label
    assert (back.id, back.label_predicted, back.label, back.offset) == (id, guess, known, offset)
    assert back.correct == (None if known is None else label == guess)
    assert back.confidence == pytest.approx(confidence, abs=1e-6)
    assert (back.class_name, back.model_version, back.partition) == (NAMES[guess], 7, 1)


@pytest.mark.parametrize("confidence", [float("nan"), float("inf")])
def test_a_confidence_that_is_none_is_not_written(confidence: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        prediction(confidence=confidence)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5},
        {"label_predicted": True},
        {"label_predicted": None},
        {"confidence": "high"},
        {"confidence": 2},
        {"label": "3"},
        {"correct": 1},
        {"source": None},
        {"source": {"partition": 1}},
        {"predicted_at": 1.5},
        {"produced_at": "now"},
    ],
)
def test_nonsense_is_not_a_prediction(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="prediction"):
        decode_prediction(json.dumps({**json.loads(prediction()), **change}).encode())


@given(st.none() | st.binary(max_size=30))
def test_bytes_are_not_a_prediction(value: bytes | None) -> None:
    with pytest.raises(ValueError, match="prediction"):
        decode_prediction(value)
