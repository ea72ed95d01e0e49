"""The offsets from which to read partitions for which the client knows none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection
from cifarctl.stream.background import StartCall
from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.paused import PausedPartitions
from cifarctl.stream.records import Partition

#: For the broker's answer, which takes a few milliseconds.
ANSWER_WAIT_S = 0.2


class StartOffsets:
    """Partitions that wait for an offset to start from: the group has committed none, or it is gone.

    A broker that does not answer holds up nobody: the other partitions are read meanwhile.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        start_call: StartCall,
        offsets: PartitionOffsets,
        paused: PausedPartitions,
        tell_gap: Callable[[Partition, str, bool], None],
    ) -> None:
        """`start_call` starts a call of `consumer`.

        `tell_gap` hears of an offset that is gone, why, and whether the topic was created anew; it may raise.
        """
        self._settings, self._consumer, self._start_call = settings, consumer, start_call
        self._offsets, self._paused, self._tell_gap = offsets, paused, tell_gap
        self._waiting: set[Partition] = set()
        self._asked: dict[Partition, Future[tuple[int, int, int]]] = {}  # queries to the broker
        self._beyond: dict[Partition, float] = {}  # offsets beyond the end: until when to wait

    def add(self, partitions: Iterable[Partition]) -> None:
        """Find the offsets to start these from."""
        self._waiting.update(partitions)

    def forget(self, gone: Iterable[Partition]) -> None:
        """Drop partitions that are not read here any more."""
        for partition in gone:
            self._waiting.discard(partition)
            self._asked.pop(partition, None)
            self._beyond.pop(partition, None)

    def apply(self) -> None:
        """Start to read each partition whose offset is known by now.

        Raises:
            BrokerError: the broker refuses, or an offset is gone and that is an error.
        """
        if not self._waiting:
            return
        unasked = (self._waiting & self._offsets.assigned) - self._asked.keys()
        asked = {each: self._start_call(self._find, each, self._offsets.since.get(each)) for each in unasked}
        self._asked |= asked
        wait(list(asked.values()), ANSWER_WAIT_S)
        for partition, answer in list(self._asked.items()):
            if not answer.done():
                continue
            del self._asked[partition]
            try:
                offset, oldest, end = answer.result()
            except KafkaException as error:
                if error.args[0].code() in connection.TRANSIENT | connection.UNKNOWN_YET:
                    continue  # ask again with the next read
                raise connection.explain(self._settings, "cannot look up offsets", error.args[0]) from None
            if offset > end and time.monotonic() < self._beyond.setdefault(
                partition, time.monotonic() + self._settings.timeout_s
            ):
                continue  # a new leader does not know the end of its partition yet
            self._beyond.pop(partition, None)
            self._waiting.discard(partition)
            if oldest <= offset <= end:  # it is there after all
                self._read_from(partition, offset)
                continue
            if 0 <= offset < oldest:
                self._tell_gap(partition, f"offset {offset} has aged out unread; the oldest is {oldest}", False)
            elif offset >= 0:
                self._tell_gap(partition, f"offset {offset} is beyond {end}; the oldest is {oldest}", True)
            self._offsets.begin(partition, oldest)
            self._read_from(partition, oldest)

    def _read_from(self, partition: Partition, offset: int) -> None:
        self._offsets.committed[partition] = offset
        with connection.broker_errors(self._settings, f"cannot start to read {partition[0]}"):
            # A partition without an offset is not being fetched, so seeking would do nothing. The offset is a number,
            # never OFFSET_BEGINNING: librdkafka 2.16 looks that up by itself, and if the partition is revoked meanwhile
            # it applies the answer to the next assignment, whatever the group has committed.
            self._paused.release([partition])
            self._consumer.incremental_unassign([TopicPartition(*partition)])
            self._consumer.incremental_assign([TopicPartition(*partition, offset)])

    def _find(self, partition: Partition, resume: int | None) -> tuple[int, int, int]:
        """The offset from which the group goes on (negative: none is committed), the oldest one, and the end.

        Raises:
            KafkaException: the broker does not answer.
        """
        limit = self._settings.timeout_s
        (found,) = self._consumer.committed([TopicPartition(*partition)], timeout=limit)
        if found.error is not None:
            raise KafkaException(found.error)
        offset = found.offset if resume is None else resume
        bounds = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=limit)
        if bounds is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return (offset, *bounds)
