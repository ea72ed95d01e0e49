"""Trying again for a limited time, for a broker that does not answer or has not finished."""

from __future__ import annotations

import time

from cifarctl.stream.connection import RETRY_S


class Patience:
    """The seconds in which something may be tried again, counted from now.

    patience = Patience(settings.timeout_s)
    while not done():
        if not patience.again():
            raise BrokerError(...)
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left, 0 when they are over: the limit for a single call."""
        return max(0.0, self._deadline - time.monotonic())

    def again(self, pause_s: float = RETRY_S) -> bool:
        """Pause before another try; False at once, without a pause, when the time is over."""
        if self.left_s == 0.0:
            return False
        time.sleep(pause_s)
        return True
