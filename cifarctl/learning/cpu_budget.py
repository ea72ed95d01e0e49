"""A share of a core that is not exceeded."""

from __future__ import annotations

import time
from collections.abc import Callable

SAVED_S = 1.0  # unspent computing time that is kept for later, in seconds
OWED_S = 2.0  # most that is made up for: whoever reads a stream must not sleep for minutes
SHORTEST_S, LONGEST_S = 0.001, 0.2  # of one sleep


class CpuBudget:
    """Puts a process to sleep whenever it has computed for longer than its share of the time that has passed."""

    def __init__(
        self,
        share: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`share` of a core, None = all it likes; `used` tells the computing time of all threads so far, in seconds."""
        self._share, self._clock, self._used, self._sleep = share, clock, used, sleep
        self._at, self._spent = clock(), used()
        self._left = SAVED_S

    def keep(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Sleep until the share is kept again; `on_wait` is called in between, and may raise."""
        if self._share is None:
            return
        self._count(self._share)
        while self._left < 0:
            on_wait()
            self._sleep(min(LONGEST_S, SHORTEST_S - self._left / self._share))
            self._count(self._share)

    def _count(self, share: float) -> None:
        now, used = self._clock(), self._used()
        left = self._left + (now - self._at) * share - (used - self._spent)
        self._left = max(-OWED_S, min(SAVED_S, left))
        self._at, self._spent = now, used
