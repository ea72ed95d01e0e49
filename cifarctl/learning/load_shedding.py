"""What a learner does about a stream that is faster than it can learn: it catches up first, then takes fewer images."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from cifarctl import events

SAMPLE = 8  # times the lag that makes updates wait makes it sample
SPARSEST = 1024
PATIENCE_S = 15.0  # from one look at whether the lag grows to the next: an update takes a while itself
TOLD_S = 60.0  # between two notices that updates wait


class LoadShedding:
    """Goes by the lag: messages that have not been read.

    What is learned from images of long ago comes too late, and what serves meanwhile is for a concept that may have
    passed: so updates wait until the lag is small, or all that had come when the wait began has been seen, as a stream
    that leaves little time would make it endless. To be shown images costs a small part of what an update does. A lag
    that is large but shrinks is only a backlog, and one that goes between updates only what has come during one: what
    counts is how small it gets. A sample is chosen by id, so that images and their late labels agree in it, and each is
    a part of the larger ones; the label of an image that waits for it is always wanted.
    """

    def __init__(self, enough: int) -> None:
        """A lag above `enough` messages makes updates wait; above eight times, and growing, it samples."""
        self._enough = enough
        self.behind = False  # updates wait
        self._read = 0  # messages, all in all
        self._until: int | None = None  # how many of them are waited for, None while that is not known
        self.every = 1  # one of so many images is learned from
        self._looked: tuple[float, int] | None = None  # when, and at what lag
        self._least: int | None = None  # lag since then
        self._told = float("-inf")

    def update(self, lag: int | None, now: float, read: int = 0) -> Iterator[events.Notice]:
        """Take in the lag, None while it is not known, at `now` seconds; says what changes.

        `read`: messages that have been read and are still to be shown to the learner; updates wait for them too.
        """
        self._read += read
        if lag is None:
            self.behind, self._until = True, None  # it may be large
            return
        if lag > 2 * self._enough and now - self._told >= TOLD_S:
            self._told = now
            yield events.Notice(f"{lag:,} messages have not been learned from: updates wait until they are seen")
        self._wait(lag, read)
        self._least = least = lag if self._least is None else min(self._least, lag)
        if self._looked is None:
            self._looked = now, least
        at, last = self._looked
        if now - at < PATIENCE_S:
            return
        self._looked, self._least, before = (now, least), None, self.every
        if least > SAMPLE * self._enough and least > last:
            self.every = min(2 * self.every, SPARSEST)
        elif least <= self._enough:
            self.every = max(self.every // 2, 1)
        if self.every != before:
            which = f"from one of {self.every:,} images" if self.every > 1 else "from every image again"
            yield events.Notice(f"{least:,} messages have not been learned from: the learner learns {which}")

    def _wait(self, lag: int, read: int) -> None:
        if self.behind and self._until is None:
            self._until = self._read + lag
        if lag + read <= self._enough // 2 or (self._until is not None and self._read - read >= self._until):
            self.behind, self._until = False, None
        elif lag + read > self._enough and not self.behind:
            self.behind, self._until = True, self._read + lag

    def takes(self, image_id: str) -> bool:
        """Whether an image is of the sample."""
        return self.every == 1 or crc32(image_id.encode()) % self.every == 0
