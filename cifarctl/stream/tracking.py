"""The records that a sink has handled but not committed yet."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection, options
from cifarctl.stream.clients import Topics
from cifarctl.stream.commit_size import CommitSize
from cifarctl.stream.limits import of_topics
from cifarctl.stream.records import Partition, Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Sink
from cifarctl.stream.source import Source

LINGER_MS = 1  # more gives larger batches, and later ones
LIST_TOPICS_S = 0.5


class TrackingSink(Sink):
    """The part that both sinks share: which records are handled, when to commit, and how much at once."""

    def __init__(self, settings: KafkaSettings, source: Source) -> None:
        """Ask for the limits of the topics.

        Raises:
            BrokerError: they are too small for any answer.
        """
        self._settings, self._source = settings, source
        names = Topics.of(settings.topic_prefix)
        self._answers = names.predictions, names.dead_letters
        self._limits = of_topics(settings, self._answers)
        self._limits.require(self._answers)
        self.commits = self.undone = 0
        self._timeout_s = options.transaction_timeout_s(settings)
        self._size = CommitSize(self._timeout_s, settings.commit_messages)
        self._positions: dict[Partition, int] = {}
        self._handled = 0
        self._committed_at = time.monotonic()
        self._absent_since = math.inf  # when one of the answers' topics was first seen to be absent

    @override
    def limit(self, topic: str) -> int:
        return self._limits.of(topic)

    @override
    def track(self, records: Iterable[Record]) -> None:
        for record in records:
            self._positions[(record.topic, record.partition)] = record.offset + 1
            self._handled += 1

    @property
    @override
    def commit_size(self) -> int:
        return self._size.limit

    @property
    @override
    def full(self) -> bool:
        return self._handled >= self._size.limit

    @override
    def due(self) -> bool:
        if self.full or self._handled >= self._settings.commit_messages:
            return True
        elapsed_s = time.monotonic() - self._committed_at
        interval_s = min(self._settings.commit_interval_ms / 1000, self._timeout_s / 2)
        return elapsed_s >= interval_s and bool(self._source.settled(self._positions))

    @override
    def news(self) -> list[str]:
        return self._size.news()

    def _require_topics(self, sender: Sender) -> None:
        """Check that the topics exist when answers do not get through: the client waits for them silently.

        Raises:
            BrokerError: one has been absent for `kafka.timeout_s`; a broker that has just come back needs a moment.
        """
        try:
            existing = sender.producer.list_topics(timeout=LIST_TOPICS_S).topics
        except KafkaException:
            return
        absent = next((topic for topic in self._answers if topic not in existing), None)
        now = time.monotonic()
        if absent is None:
            self._absent_since = math.inf
        else:
            self._absent_since = min(self._absent_since, now)
            if now - self._absent_since >= self._settings.timeout_s:
                error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
                raise connection.explain(self._settings, "cannot write answers", error, absent)

    def _count(self) -> None:
        """Count a commit, which shows that answers get through."""
        self.commits += 1
        self._absent_since = math.inf

    def _settle(self) -> None:
        """Start over with nothing handled."""
        self._positions.clear()
        self._handled = 0
        self._committed_at = time.monotonic()
