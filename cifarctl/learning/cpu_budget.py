"""Limits a process to a share of one core."""

from __future__ import annotations

import time
from collections.abc import Callable

SAVED_S = 1.0  # CPU seconds that can be saved up for a burst
OWED_S = 2.0  # CPU seconds of debt at most: a stream reader must not sleep for minutes
SHORTEST_S, LONGEST_S = 0.001, 0.2  # of one sleep


class CpuBudget:
    """Puts the process to sleep whenever it has used more than its share of the elapsed time (a token bucket)."""

    def __init__(
        self,
        share: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`share` of one core, None for no limit; `used` gives the CPU seconds of all threads so far."""
        self._share, self._clock, self._used, self._sleep = share, clock, used, sleep
        self._at, self._spent = clock(), used()
        self._left = SAVED_S

    def keep(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Sleep until the process is within its share; `on_wait` is called before each sleep, and may raise."""
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
