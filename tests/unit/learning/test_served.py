"""What users got, by version, once the labels are known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarctl import events
from cifarctl.learning.served_accuracy import SCORED, VERSIONS, ServedAccuracy
from cifarctl.stream.predictions import Prediction

WAIT_S = 600.0


def answer(image_id: str, predicted: int, *, version: int = 1, label: int | None = None) -> Prediction:
    return Prediction(
        id=image_id,
        label_predicted=predicted,
        class_name="cat",
        confidence=0.5,
        label=label,
        correct=None if label is None else label == predicted,
        model_version=version,
        model_sha256="ab",
        partition=0,
        offset=0,
        produced_at=None,
        predicted_at=0,
    )


def test_nothing_is_told_before_anything_is_known() -> None:
    served = ServedAccuracy(WAIT_S)
    served.answers([answer("a", 3)])
    served.labels([("b", 3)])
    assert served.record() == ()


images = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, VERSIONS), st.booleans()), max_size=60)


@given(images, st.randoms(use_true_random=False))
def test_answers_and_labels_meet_in_any_order(stream: list[tuple[int, int, int, bool]], random: Any) -> None:
    """Labels that came with the image count at once, the others when both halves are there."""
    served, told = ServedAccuracy(WAIT_S), []
    for number, (predicted, label, version, with_image) in enumerate(stream):
        known = label if with_image else None
        told.append(
            lambda n=number, p=predicted, v=version, k=known: served.answers([answer(f"{n}", p, version=v, label=k)])
        )
        if not with_image:
            told.append(lambda n=number, v=label: served.labels([(f"{n}", v)]))
    random.shuffle(told)
    for tell in told:
        tell()
    expected = {}
    for predicted, label, version, _ in stream:
        expected.setdefault(version, []).append(predicted == label)
    assert served.record() == tuple(
        events.ServedRecord(version, len(right), pytest.approx(sum(right) / len(right)))  # type: ignore[arg-type]
        for version, right in sorted(expected.items())
    )


def test_the_record_covers_recent_answers_of_the_latest_versions() -> None:
    served = ServedAccuracy(WAIT_S)
    served.answers(answer(f"{n}", 1, label=0) for n in range(SCORED))
    served.answers(answer(f"{n}", 1, label=1) for n in range(SCORED // 2))
    assert served.record() == (events.ServedRecord(1, SCORED, 0.5),)
    for version in range(2, VERSIONS + 2):
        served.answers([answer("x", 1, version=version, label=1)])
    assert [record.version for record in served.record()] == list(range(2, VERSIONS + 2))
