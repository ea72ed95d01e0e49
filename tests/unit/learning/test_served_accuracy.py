"""The accuracy of what was served, once its labels have come."""

from __future__ import annotations

import numpy as np
from late_labels import Clock

from cifarctl import events
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.tally import Tally


def test_late_labels_count_for_the_accuracy_served() -> None:
    late, tally = DelayedLabels(600.0), Tally()

    def take(event: events.LabelsMatched | None) -> None:
        assert event is not None
        tally.update(event)

    assert late.label([("b", 2), ("x", 1)]) is None
    first = late.add(["a", "b", "c"], np.array([-1, -1, 3]), np.array([1, 2, 3]), 7)
    assert first is not None
    assert (first.ids, first.labels.tolist(), first.predicted.tolist(), first.versions.tolist()) == (
        ["b"], [2], [2], [7],
    )  # fmt: skip
    take(first)
    assert len(late) == 1
    assert late.add(["a"], np.array([-1]), np.array([5]), 8) is None  # predicted again: the first counts
    take(late.label([("a", 4), ("c", 3), ("nobody", 0)]))
    assert late.label([("a", 4)]) is None
    assert (tally.labelled, tally.correct, tally.accuracy, tally.recent_accuracy) == (2, 1, 0.5, 0.5)


def test_predictions_are_remembered_within_bounds() -> None:
    clock = Clock()
    late = DelayedLabels(10.0, most=100, clock=clock)
    names = [f"image-{n:06d}" for n in range(300)]
    late.add(names, np.full(300, -1), np.zeros(300, dtype=np.int64), 1)
    assert 90 <= len(late) <= 110
    found = late.label([(name, 0) for name in names])
    assert found is not None
    assert found.ids == names[-len(found.ids) :]
    late.add(["old"], np.array([-1]), np.array([1]), 1)
    clock.now += 11
    assert late.label([("old", 1)]) is None
    assert len(late) == 0
