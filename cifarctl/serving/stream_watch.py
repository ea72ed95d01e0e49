"""Events about the stream itself: its lag, its rebalances, and a broker that does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cifarctl import events
from cifarctl.serving.backpressure import Backpressure
from cifarctl.settings import KafkaSettings
from cifarctl.stream.sink import Sink
from cifarctl.stream.source import Source
from cifarctl.stream.unmatched_labels import UnmatchedLabels

STATUS_INTERVAL_S = 0.5  # seconds between two StreamStatus events


class StreamWatch:
    """Yields an event when the state of the stream changes, and a StreamStatus at fixed intervals."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        kafka: KafkaSettings,
        backpressure: Backpressure,
        unmatched: UnmatchedLabels,
    ) -> None:
        self._source, self._sink, self._kafka = source, sink, kafka
        self._backpressure, self._unmatched = backpressure, unmatched
        self._waiting = False
        self._busy_since: float | None = None
        self._rebalances = 0
        self._next = 0.0

    def news(self) -> Iterator[events.ServeEvent]:
        """Waiting when it begins, Assigned after a rebalance, StreamStatus every half second, the sink's notices."""
        now = time.monotonic()
        yield from map(events.Notice, self._sink.news())
        self._busy_since = (self._busy_since or now) if self._sink.busy else None
        hung = self._busy_since is not None and now - self._busy_since > self._kafka.timeout_s
        reason = self._source.last_error or ("a commit is pending" if hung else None)
        if (reason is not None) != self._waiting:
            self._waiting = reason is not None
            if self._waiting:
                yield events.Waiting(f"{self._kafka.bootstrap_servers} does not answer ({reason})")
        if self._source.rebalances != self._rebalances:
            self._rebalances = self._source.rebalances
            yield events.Assigned(tuple(sorted(number for _, number in self._source.assigned)), self._rebalances)
        if now >= self._next:
            self._next = now + STATUS_INTERVAL_S
            yield self.status()

    def status(self) -> events.StreamStatus:
        """The state of the stream now."""
        return events.StreamStatus(
            lag=self._source.lag(),
            queue=self._sink.pending,
            commits=self._sink.commits,
            undone=self._sink.undone,
            paused=self._backpressure.engaged,
            labels_unmatched=self._unmatched.count,
        )
