"""Backpressure: nothing more is read while the broker does not take the answers as fast as they come."""

from __future__ import annotations

from cifarctl.stream.answering import Sink
from cifarctl.stream.sink import PENDING_HIGH


class Backpressure:
    """Tells when to stop reading, from the state of the sink.

    Reading stops during a commit and above PENDING_HIGH unacknowledged messages, and resumes at half as many, so that
    it does not stop and start with every message.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.engaged = False

    def update(self) -> bool:
        """Look at the sink; whether reading should stop now, which `engaged` tells until the next update."""
        limit = PENDING_HIGH // 2 if self.engaged else PENDING_HIGH
        self.engaged = self._sink.busy or self._sink.pending > limit
        return self.engaged
