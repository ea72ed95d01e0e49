"""A notice when many labels match no image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from cifarctl import events

MIN_UNMATCHED = 50  # fewer are not worth a notice
PATIENCE_S = 10.0  # for the image of a label, once everything has been read
INTERVAL_S = 60.0  # between two notices
GROWTH = 2  # times the number in the last notice


class Labelled(Protocol):
    """A join of labels with images or predictions."""

    @property
    def fitting_labels(self) -> int:
        """Labels whose image is known."""
        ...

    def labels_without_item(self, for_s: float) -> tuple[int, str | None]:
        """Labels that have been without an image for `for_s` seconds, and the id of one of them."""
        ...


class UnmatchedLabels:
    """Watches the share of the labels on `topic` that match no image."""

    def __init__(
        self, labelled: Labelled, topic: str, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`wait_s`: seconds that a label waits for its image."""
        self._labelled, self._topic, self._clock = labelled, topic, clock
        self._patience_s = min(PATIENCE_S, wait_s / 2)
        self._next = clock() + self._patience_s
        self._told = 0

    @property
    def count(self) -> int:
        """Labels that match no image so far."""
        return self._labelled.labels_without_item(0)[0]

    def look(self, *, drained: bool, whole: bool = True) -> events.Notice | None:
        """The notice that is due now, if everything has been read (`drained`); may be called at any time.

        Unless this process reads all images (`whole`), most labels belong to images that other processes read. Then
        there is a notice only if no label at all matches.
        """
        if not drained or self._clock() < self._next:
            return None
        self._next = self._clock() + self._patience_s / 2
        notice = self.verdict(self._patience_s, whole=whole)
        if notice is not None:
            self._next = self._clock() + INTERVAL_S
        return notice

    def verdict(self, for_s: float = 0.0, *, whole: bool = True) -> events.Notice | None:
        """As `look`, about labels that have been without an image for `for_s` seconds, due or not."""
        count, example = self._labelled.labels_without_item(for_s)
        fitting = self._labelled.fitting_labels
        if count < max(MIN_UNMATCHED, GROWTH * self._told) or count <= fitting or (fitting and not whole):
            return None
        self._told = count
        return events.Notice(
            f"{count:,} of {count + fitting:,} labels on {self._topic} match no image that was read here, for example "
            f"{example!r}: check that the labels have the ids of the images, and check kafka.topic_prefix; labels of "
            "images from before the start, or later than online.label_wait, match none either"
        )
