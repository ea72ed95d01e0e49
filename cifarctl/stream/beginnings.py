"""Where to begin to read partitions of which the client knows no place to begin at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection
from cifarctl.stream.holds import Holds
from cifarctl.stream.limited import Begin
from cifarctl.stream.places import Places
from cifarctl.stream.records import Partition

#: For the place to begin at, which a broker tells in a few milliseconds.
BEGIN_WAIT_S = 0.2


class Beginnings:
    """Partitions that wait for a place to begin at: the group has none, or it is not there any more.

    Nobody waits for a broker that does not say: the other partitions are read meanwhile.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        begin: Begin,
        places: Places,
        holds: Holds,
        tell_gap: Callable[[Partition, str, bool], None],
    ) -> None:
        """`begin` begins a call of `consumer`.

        `tell_gap` hears of a place that is gone, why, and whether the topic is another one; it may raise.
        """
        self._settings, self._consumer, self._call = settings, consumer, begin
        self._places, self._holds, self._tell_gap = places, holds, tell_gap
        self._waiting: set[Partition] = set()
        self._asked: dict[Partition, Future[tuple[int, int, int]]] = {}  # what the broker has been asked
        self._beyond: dict[Partition, float] = {}  # those that should go on beyond their end, and how long that may be

    def add(self, partitions: Iterable[Partition]) -> None:
        """They wait from now on."""
        self._waiting.update(partitions)

    def forget(self, gone: Iterable[Partition]) -> None:
        """They are not read here any more."""
        for partition in gone:
            self._waiting.discard(partition)
            self._asked.pop(partition, None)
            self._beyond.pop(partition, None)

    def look(self) -> None:
        """Begin to read each partition whose place is known by now.

        Raises:
            BrokerError: the broker refuses, or a place is gone and that is an error.
        """
        if not self._waiting:
            return
        unasked = (self._waiting & self._places.assigned) - self._asked.keys()
        asked = {each: self._call(self._place, each, self._places.since.get(each)) for each in unasked}
        self._asked |= asked
        wait(list(asked.values()), BEGIN_WAIT_S)
        for partition, answer in list(self._asked.items()):
            if not answer.done():
                continue
            del self._asked[partition]
            try:
                offset, oldest, end = answer.result()
            except KafkaException as error:
                if error.args[0].code() in connection.TRANSIENT | connection.UNHEARD_OF:
                    continue  # asked again with the next read
                raise connection.explain(self._settings, "cannot look up offsets", error.args[0]) from None
            if offset > end and time.monotonic() < self._beyond.setdefault(
                partition, time.monotonic() + self._settings.timeout_s
            ):
                continue  # a leader that has just taken over does not know its end yet
            self._beyond.pop(partition, None)
            self._waiting.discard(partition)
            if oldest <= offset <= end:  # it is there after all
                self._read_from(partition, offset)
                continue
            if 0 <= offset < oldest:
                self._tell_gap(partition, f"offset {offset} has aged out unread; the oldest is {oldest}", False)
            elif offset >= 0:
                self._tell_gap(partition, f"offset {offset} is beyond {end}; the oldest is {oldest}", True)
            self._places.begin(partition, oldest)
            self._read_from(partition, oldest)

    def _read_from(self, partition: Partition, offset: int) -> None:
        self._places.committed[partition] = offset
        with connection.broker_errors(self._settings, f"cannot begin to read {partition[0]}"):
            # A partition without a place to begin at is not being fetched, so that seeking does nothing. The place is a
            # number, never OFFSET_BEGINNING: librdkafka 2.16 looks that up by itself, and when the partition is revoked
            # meanwhile it applies the answer to its next assignment, whatever the group has committed.
            self._holds.release([partition])
            self._consumer.incremental_unassign([TopicPartition(*partition)])
            self._consumer.incremental_assign([TopicPartition(*partition, offset)])

    def _place(self, partition: Partition, resume: int | None) -> tuple[int, int, int]:
        """The offset at which the group should go on, negative where it knows none, the oldest there is, and the end.

        Raises:
            KafkaException: the broker does not tell.
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
