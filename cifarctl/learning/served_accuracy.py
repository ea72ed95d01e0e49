"""What users got: the answers of the predictions topic, joined with the labels of their images, by version."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

import numpy as np

from cifarctl import events
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.predictions import Prediction

RECENT = 500  # labelled answers over which the accuracy of a version is told
VERSIONS = 4  # that are told of, those that answered last
MOST = 20_000  # answers that wait for their labels


class ServedAccuracy:
    """The served record of each version: an answer counts when its label is known, whichever comes first."""

    def __init__(self, wait_s: float) -> None:
        """An answer waits `wait_s` seconds for its label, or a label for its answer."""
        self._late = DelayedLabels(wait_s, most=MOST)
        self._right: OrderedDict[int, deque[bool]] = OrderedDict()

    def answers(self, predictions: Iterable[Prediction]) -> None:
        """Take in what was served."""
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
        """Of each version that has answered recently, the newest one last."""
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
        self._right.setdefault(version, deque(maxlen=RECENT)).append(right)
        self._right.move_to_end(version)
        while len(self._right) > VERSIONS:
            self._right.popitem(last=False)
