"""Predictions that wait for the labels of their images, so that late labels count towards the served accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.stream.join import ENTRY_BYTES, Join, Store

#: Predictions remembered, and labels that came first: about 60 MB each when full.
MAX_WAITING = 100_000

Predicted: TypeAlias = tuple[int, int, int]  # class, version of the model, number of the trial


class DelayedLabels:
    """Remembers the predictions of unlabelled images until their labels come, within bounds.

    A label that comes first waits as well. An image that is predicted twice counts once.
    """

    def __init__(self, wait_s: float, *, most: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic) -> None:
        """Predictions and labels wait `wait_s` seconds; the newest `most` of each are kept (ids of 30 characters)."""
        size = most * (ENTRY_BYTES + 32)
        self._join: Join[Predicted] = Join(
            Store(size, wait_s), wait_s=wait_s, label_bytes=size, settled_bytes=size, clock=clock
        )
        self._labels = False  # whether any have come on the labels topic

    def __len__(self) -> int:
        """Predictions that wait for a label."""
        return len(self._join.items)

    @property
    def fitting_labels(self) -> int:
        """Labels whose image has been predicted."""
        return self._join.fitting_labels

    def labels_without_item(self, for_s: float) -> tuple[int, str | None]:
        """Labels that were dropped or have waited for a prediction for `for_s` seconds, and the id of one of them."""
        return self._join.labels_without_item(for_s)

    def add(
        self,
        ids: Sequence[str],
        labels: NDArray[np.int64],
        predicted: NDArray[np.int64],
        version: int,
        trial: int = 0,
    ) -> events.LabelsMatched | None:
        """Take in a batch (B,) as it was served; returns its unlabelled images (-1) whose labels have come before."""
        self._join.expire()
        found: list[tuple[str, Predicted, int]] = []
        if self._labels:  # its label may also come on that topic, and must not count as unmatched
            for index in np.flatnonzero(labels >= 0).tolist():
                self._join.settle(ids[index], int(labels[index]))
        for index in np.flatnonzero(labels < 0).tolist():
            item = (int(predicted[index]), version, trial)
            label = self._join.add_item(ids[index], item, 0)
            if label is not None:
                found.append((ids[index], item, label))
        return _matched(found)

    def label(self, labels: Iterable[tuple[str, int]]) -> events.LabelsMatched | None:
        """Take in (id, label) pairs; returns the predictions that have been waiting for them."""
        self._join.expire()
        found: list[tuple[str, Predicted, int]] = []
        for image_id, label in labels:
            self._labels = True
            item = self._join.add_label(image_id, label)
            if item is not None:
                found.append((image_id, item, label))
        return _matched(found)


def _matched(found: list[tuple[str, Predicted, int]]) -> events.LabelsMatched | None:
    if not found:
        return None
    predicted, versions, trials = np.array([item for _, item, _ in found], dtype=np.int64).T
    return events.LabelsMatched(
        ids=[image_id for image_id, _, _ in found],
        labels=np.array([label for _, _, label in found], dtype=np.int64),
        predicted=predicted,
        versions=versions,
        trials=trials,
    )
