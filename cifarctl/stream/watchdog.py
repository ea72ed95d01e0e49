"""Ends the process when a call into the Kafka client hangs beyond its own time limit.

librdkafka has hung before, in a commit or while leaving a group, without any exception. A process that hangs keeps its
partitions from all others as long as its heartbeats go on. A process that ends does not, and with exactly-once delivery
nothing is lost or duplicated by that.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from cifarctl.errors import BrokerError

TICK_S = 1.0


def leave(doing: str, seconds: float) -> NoReturn:
    """End the process at once, with the line and the exit code of a BrokerError."""
    sys.stderr.write(f"cifarctl: {doing}: the Kafka client has not returned for {seconds:g} s; start again\n")
    sys.stderr.flush()
    os._exit(BrokerError.exit_code)


@dataclass
class _Call:
    doing: str
    limit_s: float
    age_s: float = 0.0


class Watchdog:
    """Calls `on_hang` from a thread of its own when a guarded call takes longer than its limit.

    Time is counted in ticks of this process, so that a suspended process does not count as hung when it wakes.
    """

    def __init__(self, on_hang: Callable[[str, float], None] = leave, tick_s: float = TICK_S) -> None:
        self._on_hang, self._tick_s = on_hang, tick_s
        self._call: _Call | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def __call__(self, doing: str, limit_s: float) -> Iterator[None]:
        """Guard one call; to be used from one thread. A nested guard replaces the outer one meanwhile."""
        outer, self._call = self._call, _Call(doing, limit_s)
        try:
            yield
        finally:
            self._call = outer

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._tick_s):
            call = self._call
            if call is None:
                continue
            call.age_s += self._tick_s
            if call.age_s > call.limit_s:
                self._on_hang(call.doing, call.limit_s)
                return
