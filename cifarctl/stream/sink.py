"""Where results leave and offsets are committed: the one class that delivery rests on.

At least once: an offset is committed only after every message that came of the record has been acknowledged.

    send(...)  predictions and dead letters of a batch        may be lost until acknowledged
    track(...) the records they came of                       nothing is committed yet
    commit()   1. wait until all that was sent is acknowledged
               2. commit the offsets behind the tracked records

A crash before 2 leaves the offsets where they were: the records are read again and predicted again, by this
process or by the one that takes over the partition. Never the other way round, which would lose predictions.
A transactional sink would have the same methods and do both steps in one Kafka transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.codecs import Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Partition, Source

#: Seconds between attempts at the last commit.
RETRY_S = 0.1

#: The group has moved on without us: whoever has the partitions now reads those records again.
OVERTAKEN = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._ASSIGNMENT_LOST,
}
#: Nobody answers for the group at the moment; the same commit may succeed later.
TRANSIENT = clients.UNREACHABLE | {
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._IN_PROGRESS,
}


class AtLeastOnceSink:
    """Sends results and commits the offsets of what they came of, in this order."""

    def __init__(self, settings: KafkaSettings, source: Source) -> None:
        """Open a producer, and be told by `source` when its partitions go away.

        Raises:
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self._source = source
        self._sender = Sender(settings)
        self._positions: dict[Partition, int] = {}
        self._committed_at = time.monotonic()
        source.listen(self._revoked, self._drop)

    @property
    def sent(self) -> int:
        """Messages handed over so far."""
        return self._sender.sent

    @property
    def uncommitted(self) -> dict[Partition, int]:
        """The next offset of each partition that has records handled but not committed."""
        return dict(self._positions)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> None:
        """Queue one result; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        self._sender.send(topic, key, value, headers)

    def track(self, records: Iterable[Record]) -> None:
        """Remember `records` as handled: everything that came of them has been passed to `send`."""
        for record in records:
            partition = (record.topic, record.partition)
            self._positions[partition] = max(self._positions.get(partition, 0), record.offset + 1)

    def due(self) -> bool:
        """Whether something is to be committed and the last time is `kafka.commit_interval_ms` ago."""
        elapsed_ms = (time.monotonic() - self._committed_at) * 1000
        return bool(self._positions) and elapsed_ms >= self._settings.commit_interval_ms

    def commit(self, timeout_s: float | None = None) -> bool:
        """Wait for the acknowledgements, then commit the offsets of all tracked records.

        Returns False, nothing lost and nothing committed, when the broker did not answer within `timeout_s`
        seconds (default: `kafka.timeout_s`): go on reading and try again when it is due.

        Raises:
            BrokerError: a message was not delivered, or the broker refuses the commit; no offset has moved.
        """
        acknowledged = self._sender.flush(self._settings.timeout_s if timeout_s is None else timeout_s)
        self._sender.raise_failed()
        self._committed_at = time.monotonic()
        return acknowledged and self._commit_offsets()

    def close(self, timeout_s: float | None = None) -> None:
        """Commit for the last time, trying for `timeout_s` seconds (default: `kafka.timeout_s`).

        Raises:
            BrokerError: as `commit`, or the broker did not answer; the records will be read again.
        """
        deadline = time.monotonic() + (self._settings.timeout_s if timeout_s is None else timeout_s)
        while not self.commit(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"the last predictions are not committed: no answer from {self._settings.bootstrap_servers}; "
                    "their images will be read again; check kafka.bootstrap_servers"
                )
            time.sleep(RETRY_S)  # the coordinator of the group is moving

    def _commit_offsets(self) -> bool:
        if not self._positions:
            return True
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in self._positions.items()]
        with clients.broker_errors(self._settings, "cannot commit offsets"):
            try:
                results = self._source.consumer.commit(offsets=offsets, asynchronous=False)
                for result in results:
                    if result.error is not None:
                        raise KafkaException(result.error)
            except KafkaException as error:
                code = error.args[0].code()
                if code in TRANSIENT:
                    clients.logger.warning("commit is put off: %s", error)
                    return False
                if code not in OVERTAKEN:
                    raise
                clients.logger.warning("partitions have moved on, their records are read again: %s", error)
        self._positions.clear()
        return True

    def _revoked(self, partitions: frozenset[Partition]) -> None:
        """Commit while the partitions are still ours; what cannot be committed is read again elsewhere."""
        if self._positions.keys() & partitions:
            self.commit()
        self._drop(partitions)

    def _drop(self, partitions: frozenset[Partition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
