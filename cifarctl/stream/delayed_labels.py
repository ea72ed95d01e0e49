"""Predictions that wait for the labels of their images, so that late labels count for the accuracy served."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.stream.join import ENTRY_BYTES, Join, Store

#: Predictions remembered, and as many labels that came first: about 60 MB each when there are so many.
MOST = 100_000

Predicted: TypeAlias = tuple[int, int, int]  # class, version of the model, number of the trial


class DelayedLabels:
    """Remembers what was predicted of unlabelled images, and counts it when the label comes, within bounds.

    A label that comes first waits as well. An image that is predicted again counts once.
    """

    def __init__(self, wait_s: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """Predictions and labels wait `wait_s` seconds; of each, the newest `most` (ids of some 30 characters)."""
        size = most * (ENTRY_BYTES + 32)
        self._join: Join[Predicted] = Join(
            Store(size, wait_s), wait_s=wait_s, label_bytes=size, settled_bytes=size, clock=clock
        )
        self._labels = False  # whether any has come on the labels topic

    def __len__(self) -> int:
        """Predictions that wait for a label."""
        return len(self._join.items)

    @property
    def fitting_labels(self) -> int:
        """Labels whose image has been answered."""
        return self._join.fitting_labels

    def strays(self, for_s: float) -> tuple[int, str | None]:
        """Labels whose image has not been answered, given up or waiting for `for_s` seconds; the id of one of them."""
        return self._join.strays(for_s)

    def add(
        self,
        ids: Sequence[str],
        labels: NDArray[np.int64],
        predicted: NDArray[np.int64],
        version: int,
        trial: int = 0,
    ) -> events.LabelsMatched | None:
        """Take in a batch as it was served, (B,): of its unlabelled images (-1), those whose label has come before."""
        self._join.expire()
        found: list[tuple[str, Predicted, int]] = []
        if self._labels:  # one of these may come there too, and belongs to an image then
            for index in np.flatnonzero(labels >= 0).tolist():
                self._join.settle(ids[index], int(labels[index]))
        for index in np.flatnonzero(labels < 0).tolist():
            item = (int(predicted[index]), version, trial)
            label = self._join.add_item(ids[index], item, 0)
            if label is not None:
                found.append((ids[index], item, label))
        return _matched(found)

    def label(self, labels: Iterable[tuple[str, int]]) -> events.LabelsMatched | None:
        """Take in (id, label) pairs: the predictions that have been waiting for it."""
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
