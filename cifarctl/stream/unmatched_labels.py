"""Labels that belong to no image: said when they are many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from cifarctl import events

FEWEST = 50  # of which it is worth speaking
PATIENCE_S = 10.0  # for the image of a label to come, once all that there is has been read
INTERVAL_S = 60.0  # between two notices
GROWTH = 2  # times as many as told before


class Labelled(Protocol):
    """Where labels meet their images."""

    @property
    def fitting_labels(self) -> int:
        """Labels whose image is known."""
        ...

    def strays(self, for_s: float) -> tuple[int, str | None]:
        """Labels that have been without an image for so many seconds, and the id of one of them."""
        ...


class UnmatchedLabels:
    """Watches the share of the labels on `topic` that match no image."""

    def __init__(
        self, labelled: Labelled, topic: str, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`wait_s`: how long a label waits for its image at all."""
        self._labelled, self._topic, self._clock = labelled, topic, clock
        self._patience_s = min(PATIENCE_S, wait_s / 2)
        self._next = clock() + self._patience_s
        self._told = 0

    @property
    def count(self) -> int:
        """Labels that match no image so far."""
        return self._labelled.strays(0)[0]

    def look(self, *, drained: bool, whole: bool = True) -> events.Notice | None:
        """What is to be said now, where all there is has been read (`drained`); asked as often as one likes.

        Unless this process reads all of the images (`whole`), most labels belong to those that others read: then only
        labels of which not one fits are remarkable.
        """
        if not drained or self._clock() < self._next:
            return None
        self._next = self._clock() + self._patience_s / 2
        notice = self.verdict(self._patience_s, whole=whole)
        if notice is not None:
            self._next = self._clock() + INTERVAL_S
        return notice

    def verdict(self, for_s: float = 0.0, *, whole: bool = True) -> events.Notice | None:
        """As `look`, of labels that have been without an image for so many seconds, whatever the time."""
        count, example = self._labelled.strays(for_s)
        fitting = self._labelled.fitting_labels
        if count < max(FEWEST, GROWTH * self._told) or count <= fitting or (fitting and not whole):
            return None
        self._told = count
        return events.Notice(
            f"{count:,} of {count + fitting:,} labels on {self._topic} match no image that was read here, for example "
            f"{example!r}: check that their ids are those of the images, and kafka.topic_prefix; labels of images from "
            "before the start, or later than online.label_wait, match none either"
        )
