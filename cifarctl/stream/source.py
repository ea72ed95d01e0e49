"""Reading a topic within a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import methodcaller
from types import TracebackType
from typing import TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.codecs import Record

Partition: TypeAlias = tuple[str, int]
PartitionsCallback: TypeAlias = Callable[[frozenset[Partition]], None]

#: Seconds between questions to a broker that was lost whether it is back.
PROBE_INTERVAL_S = 1.0


class Source:
    """Records of some topics, as far as the group assigns their partitions to this process.

    A broker that goes away is waited for: `last_error` says so meanwhile. Nothing is committed here: a sink
    does that, and asks by `listen` to be told when partitions go away.
    """

    def __init__(self, settings: KafkaSettings, topics: Sequence[str], *, group_id: str | None = None) -> None:
        """Join the group `group_id` (default: `kafka.group_id`); the first reads complete the joining.

        Raises:
            BrokerError: the subscription is refused.
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self._assigned: set[Partition] = set()
        self._ended: set[Partition] = set()
        self._reached: set[Partition] = set()
        self._positions: dict[Partition, int] = {}
        self._failure: KafkaError | None = None
        self._probe_at = 0.0
        self._listeners: list[tuple[PartitionsCallback, PartitionsCallback]] = []
        self._closed = False
        self.consumer: Consumer = clients.consumer(
            settings, settings.group_id if group_id is None else group_id, on_error=self._note
        )
        with clients.broker_errors(settings, f"cannot subscribe to {', '.join(topics)}"):
            self.consumer.subscribe(
                list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def assigned(self) -> frozenset[Partition]:
        """(topic, partition) of what this process reads; empty until the group has decided."""
        return frozenset(self._assigned)

    @property
    def drained(self) -> bool:
        """Whether partitions are assigned, all were read to their end, and the broker is there to say so."""
        return bool(self._assigned) and self._assigned <= self._ended and self._failure is None

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return bool(self._assigned) and self._assigned <= self._reached

    @property
    def last_error(self) -> str | None:
        """What keeps the broker from answering, None while all is well."""
        return None if self._failure is None else self._failure.str()

    def listen(self, on_revoke: PartitionsCallback, on_lost: PartitionsCallback) -> None:
        """Call `on_revoke` before partitions go away (it may still commit), `on_lost` when they are gone."""
        self._listeners.append((on_revoke, on_lost))

    def read(self, max_messages: int, max_wait_s: float) -> list[Record]:
        """At most `max_messages` records; fewer when `max_wait_s` seconds have passed, possibly none.

        Rebalances happen inside this call, so the callbacks of `listen` run in the caller's thread.

        Raises:
            BrokerError: the broker refuses for good (credentials, permission, a fatal error of the client).
        """
        with clients.broker_errors(self._settings, "cannot read"):
            messages = self.consumer.consume(max_messages, max_wait_s)
        records = [record for message in messages if (record := self._record(message)) is not None]
        if self._failure is not None:
            self._handle_failure(self._failure)
        return records

    def lag(self) -> int | None:
        """Messages still to be read from the assigned partitions; None while that is not known.

        From the watermarks that came with the last fetches: asking for them anew costs a round trip, and the
        embedded broker answers it wrongly.
        """
        total = 0
        for partition in self._assigned:
            if partition in self._ended:
                continue
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if high < 0 or partition not in self._positions:
                return None
            total += max(0, high - self._positions[partition])
        return total if self._assigned else None

    def close(self) -> None:
        """Leave the group; commits nothing, so close the sink first."""
        if self._closed:
            return
        self._closed = True
        self._listeners.clear()
        with clients.broker_errors(self._settings, "cannot leave the group"):
            self.consumer.close()

    def _record(self, message: Message) -> Record | None:
        """The record of a message; None for the end of a partition and for errors, which are remembered."""
        error, topic, number, offset = message.error(), message.topic(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            self._note(error)
            return None
        assert topic is not None
        assert number is not None
        assert offset is not None
        partition = (topic, number)
        if error is not None:
            self._ended.add(partition)
            self._reached.add(partition)
            return None
        self._ended.discard(partition)
        self._positions[partition] = offset + 1
        known, timestamp = message.timestamp()
        return Record(
            topic,
            number,
            offset,
            timestamp if known else -1,
            message.key(),
            message.value(),
            _headers(message),
        )

    def _note(self, error: KafkaError) -> None:
        """Called by the client from within consume, so it must not raise."""
        clients.logger.info("%s", error)
        if self._failure is None or _final(error) or not _final(self._failure):
            self._failure = error

    def _handle_failure(self, failure: KafkaError) -> None:
        if _final(failure):
            raise clients.explain(self._settings, "cannot read", failure)
        now = time.monotonic()
        if now >= self._probe_at:
            # Messages prove nothing, they may have been fetched before; no event tells of a new connection.
            self._probe_at = now + PROBE_INTERVAL_S
            try:
                self.consumer.list_topics(timeout=0.5)
                self._failure = None
            except KafkaException as error:
                self._failure = error.args[0]

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned |= _named(partitions)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = _named(partitions)
        try:
            for revoked, _lost in self._listeners:
                revoked(gone)
        finally:
            self._forget(gone)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = _named(partitions)
        for _revoked, lost in self._listeners:
            lost(gone)
        self._forget(gone)

    def _forget(self, gone: frozenset[Partition]) -> None:
        self._assigned -= gone
        self._ended -= gone
        self._reached -= gone
        for partition in gone:
            self._positions.pop(partition, None)


def _final(error: KafkaError) -> bool:
    """Waiting does not help: the client is broken, or the broker does not want us."""
    return error.fatal() or error.code() in clients.UNAUTHENTICATED | clients.FORBIDDEN


def _named(partitions: Sequence[TopicPartition]) -> frozenset[Partition]:
    return frozenset((partition.topic, partition.partition) for partition in partitions)


#: The client's C code returns such headers together with a pending exception (a SystemError). A plain method
#: call, once the interpreter has specialised it, passes that by: it surfaces at some innocent line later.
_raw_headers = methodcaller("headers")


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """The headers; none of them where a name is not UTF-8, which the client cannot represent."""
    try:
        return tuple(_raw_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ()
