"""Backpressure: nothing more is read while the broker does not take the answers as fast as they come."""

from __future__ import annotations

from cifarctl.stream.sink import MAX_PENDING, Sink


class Backpressure:
    """Tells when to stop reading, from the state of the sink.

    Reading stops during a commit and above MAX_PENDING unacknowledged messages, and resumes at half as many, so that
    it does not stop and start with every message.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.engaged = False

    def update(self) -> bool:
        """Look at the sink; whether reading should stop now, which `engaged` tells until the next update."""
        limit = MAX_PENDING // 2 if self.engaged else MAX_PENDING
        self.engaged = self._sink.busy or self._sink.pending > limit
        return self.engaged
