"""Served accuracy by version: the predictions topic joined with the labels of its images."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

import numpy as np

from cifarctl import events
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.predictions import Prediction

SCORED = 500  # newest labelled predictions that make up a version's accuracy
VERSIONS = 4  # versions reported, those that predicted last
MAX_WAITING = 20_000  # predictions that wait for their labels


class ServedAccuracy:
    """Scores each version on what it served; a prediction counts once its label is known, in either order."""

    def __init__(self, wait_s: float) -> None:
        """A prediction waits `wait_s` seconds for its label, and a label for its prediction."""
        self._late = DelayedLabels(wait_s, most=MAX_WAITING)
        self._right: OrderedDict[int, deque[bool]] = OrderedDict()

    def answers(self, predictions: Iterable[Prediction]) -> None:
        """Take in served predictions."""
        for answer in predictions:
            if answer.correct is not None:
                self._count(answer.model_version, answer.correct)
            else:
                label, predicted = np.array([-1]), np.array([answer.label_predicted])
                self._match(self._late.add([answer.id], label, predicted, answer.model_version))

    def labels(self, pairs: Iterable[tuple[str, int]]) -> None:
        """Take in labels by id."""
        self._match(self._late.label(pairs))

    def record(self) -> tuple[events.ServedRecord, ...]:
        """Accuracy of each version that predicted recently, the newest version last."""
        return tuple(
            events.ServedRecord(version, len(right), sum(right) / len(right))
            for version, right in sorted(self._right.items())
        )

    def _match(self, found: events.LabelsMatched | None) -> None:
        if found is not None:
            right = (found.labels == found.predicted).tolist()
            for version, each in zip(found.versions.tolist(), right, strict=True):
                self._count(version, each)

    def _count(self, version: int, right: bool) -> None:
        self._right.setdefault(version, deque(maxlen=SCORED)).append(right)
        self._right.move_to_end(version)
        while len(self._right) > VERSIONS:
            self._right.popitem(last=False)
