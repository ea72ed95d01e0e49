"""Load shedding: on a stream faster than it can learn, a learner first delays updates, then samples the images."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from cifarctl import events

SAMPLE = 8  # sampling begins at this multiple of the lag at which updates wait
SPARSEST = 1024  # at least one image in this many is learned from
PATIENCE_S = 15.0  # between two checks of whether the lag grows; a single update may take a few seconds
TOLD_S = 60.0  # between two notices that updates wait


class LoadShedding:
    """Decides by the consumer lag: the number of messages that have not been read.

    An update from old images comes too late: the concept may have passed. So updates wait until the lag is small, or
    until everything that had arrived when the wait began has been seen; otherwise a stream that leaves little time
    would make the wait endless. Reading images costs a small fraction of an update.

    A large lag that shrinks is only a backlog, and a lag that vanishes between updates only arrived during one. The
    smallest lag since the last check is therefore what counts. The sample is chosen by id, so that images and their
    late labels agree; each sample is a subset of the larger ones. The label of an image that waits is always taken.
    """

    def __init__(self, enough: int) -> None:
        """A lag above `enough` messages delays updates; above eight times as many, and growing, it causes sampling."""
        self._enough = enough
        self.behind = False  # updates wait
        self._read = 0  # messages read in total
        self._until: int | None = None  # total at which the wait ends; None while it is unknown
        self.every = 1  # one image in this many is learned from
        self._looked: tuple[float, int] | None = None  # time and lag of the last check
        self._least: int | None = None  # smallest lag since then
        self._told = float("-inf")

    def update(self, lag: int | None, now: float, read: int = 0) -> Iterator[events.Notice]:
        """Take in the lag at `now` seconds; yields a notice for each change.

        `lag` is None while it is unknown. `read` counts messages that have been read but not yet learned from; updates
        wait for them, too.
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
        """Whether the image is in the sample."""
        return self.every == 1 or crc32(image_id.encode()) % self.every == 0
