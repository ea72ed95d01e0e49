"""Reading topics as a member of a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from types import TracebackType
from typing import Any, Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, gaps
from cifarctl.stream.assignment import Assignment, PartitionsCallback
from cifarctl.stream.background import Calls
from cifarctl.stream.group_offsets import GroupOffsets
from cifarctl.stream.identity import TopicWatch
from cifarctl.stream.outage import Outage
from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.paused import PausedPartitions
from cifarctl.stream.records import Partition, Record, record_of
from cifarctl.stream.stall import StallWatch
from cifarctl.stream.start_offsets import StartOffsets
from cifarctl.stream.watchdog import Watchdog

#: Seconds beyond its time limit after which a call of the client counts as hung.
GRACE_S = 60.0
#: For the first partitions of a member that leaves the embedded broker, which assigns them within 1 to 5 s.
JOINED_LIMIT_S = 20.0
POLL_S = 0.1
ANSWER_S = 2.0  # for the broker to say which one it is


class Source:
    """Records of some topics, from the partitions that the group assigns to this process.

    If the broker goes away, the source waits for it, and `last_error` says so. Nothing is committed automatically: a
    sink commits, and learns through `listen` when partitions go away. A partition without a committed offset is read
    from its beginning. A committed offset that has aged out is an error, never a silent skip; so is a stream that
    stands still although the broker answers.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        group_id: str | None = None,
        on_gap: Callable[[str], None] | None = None,
        start: Mapping[Partition, int] | None = None,
        progress: Literal["reads", "commits"] = "reads",
    ) -> None:
        """Join the group `group_id` (default: `kafka.group_id`); the first reads complete the joining.

        Args:
            settings: connection.
            topics: their names.
            group_id: consumer group.
            on_gap: hears of committed offsets that are gone, and reading goes on with the oldest record; without it
                they are errors.
            start: offsets from which partitions are read when they are first assigned, whatever the group has
                committed.
            progress: its absence is a stall. "reads": records of partitions that are not held. "commits": also
                commits of everything read, within `kafka.commit_interval_ms`, whatever is held.

        Raises:
            BrokerError: no broker answers, or the subscription is refused.
            SettingsError: librdkafka refuses an option.
        """
        self._settings, self._on_gap = settings, on_gap
        self.group_id = settings.group_id if group_id is None else group_id
        self.watchdog = Watchdog()
        self._closed = False
        self._outage = Outage(settings)
        options = clients.group_options(settings)
        self.consumer: Consumer = clients.consumer(settings, self.group_id, on_error=self._outage.note, **options)
        self._calls = Calls()
        call = self._calls.start
        self.offsets = PartitionOffsets()
        self._paused = PausedPartitions(self.consumer)
        self._start_offsets = StartOffsets(settings, self.consumer, call, self.offsets, self._paused, self._tell_gap)
        self._stalls = StallWatch(settings, self.consumer, call, self.offsets, self._outage.note_silence, progress)
        self._watch = TopicWatch(settings, topics, call, partial(self.consumer.committed, timeout=settings.timeout_s))
        self._group_offsets = GroupOffsets(settings, self.consumer, call, self._watch, self.offsets)
        self._assignment = Assignment(self.offsets, self._paused, self._start_offsets, self._watch, start or {})
        with connection.broker_errors(settings, f"cannot subscribe to {', '.join(topics)}"):
            self.consumer.subscribe(
                list(topics),
                on_assign=self._assignment.on_assign,
                on_revoke=self._assignment.on_revoke,
                on_lost=self._assignment.on_lost,
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
        return frozenset(self.offsets.assigned)

    @property
    def rebalances(self) -> int:
        """How often the assignment has changed."""
        return self._assignment.rebalances

    @property
    def drained(self) -> bool:
        """Whether partitions are assigned, all were read to their end, and the broker is there to say so."""
        return self.offsets.drained and not self._outage

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return self.offsets.caught_up

    @property
    def progress(self) -> int:
        """A number that changes with every record read, and when a partition is first read to its end."""
        return sum(self.offsets.read.values()) + len(self.offsets.reached)

    @property
    def unfinished(self) -> list[str]:
        """The partitions that have not been read to their end yet, for people: ``cifar.images[0]``."""
        return [f"{topic}[{number}]" for topic, number in sorted(self.offsets.assigned - self.offsets.reached)]

    @property
    def last_error(self) -> str | None:
        """Why the broker does not answer; None while it does."""
        return self._outage.cause

    def listen(self, on_revoke: PartitionsCallback, on_lost: PartitionsCallback) -> None:
        """Call `on_revoke` before partitions go away (it may still commit), `on_lost` after they are gone."""
        self._assignment.listen(on_revoke, on_lost)

    def read(self, max_messages: int, max_wait_s: float, fill_s: float = 0.0) -> list[Record]:
        """At most `max_messages` records: all there are once the first one has come, within `max_wait_s` seconds.

        With `fill_s` it waits that many seconds longer for the batch to fill. Rebalances happen inside this call, so
        the callbacks of `listen` run in the caller's thread.

        Raises:
            BrokerError: the broker refuses for good (credentials, permission, a fatal error of the client), an offset
                has aged out, a topic was deleted and created again, or nothing has moved for a minute although the
                broker answers.
        """
        with self.watchdog("reading", max_wait_s + fill_s + GRACE_S):
            with connection.broker_errors(self._settings, "cannot read"):
                messages = self.consumer.consume(1, max_wait_s)
                records = self._records(messages)
                if messages and max_messages > 1:
                    messages = self.consumer.consume(max_messages - 1, fill_s)
                    # A rebalance or a rewind in between undoes the first call.
                    records = [r for r in records if r.offset < self.offsets.read.get((r.topic, r.partition), 0)]
                    records += self._records(messages)
            self._check_topics()
            self._start_offsets.apply()
            self._outage.check(self.consumer)
            self._stalls.check(self._paused, answering=not self._outage, idle=not records)
        return records

    def hold(self, partitions: Set[Partition]) -> None:
        """Pause these partitions and resume the others; records already fetched are fetched again later.

        `read` still serves their rebalances and heartbeats.
        """
        with connection.broker_errors(self._settings, "cannot pause"):
            self._paused.only(self.offsets.assigned & partitions)

    def rewind(self) -> None:
        """Read everything since the last commit again."""
        self.hold(frozenset())  # a pause that ends after the seek would go on at the offset before it
        for partition, offset in self.offsets.uncommitted().items():
            if partition not in self._assignment.leaving:
                self._seek(partition, offset)
                self.offsets.rewind(partition, offset)

    def settled(self, handled: Mapping[Partition, int]) -> dict[Partition, int]:
        """The offsets to commit once all records before `handled` are done; see `PartitionOffsets.settled`."""
        return self.offsets.settled(handled)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note that a sink has committed these offsets."""
        self.offsets.commit(offsets)

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float | None = None) -> bool:
        """Commit within `timeout_s` seconds (default: `kafka.timeout_s`); see `GroupOffsets.commit`."""
        return self._group_offsets.commit(offsets, self._settings.timeout_s if timeout_s is None else timeout_s)

    def group_metadata(self) -> Any:
        """The group metadata that a transaction needs to commit offsets; see `GroupOffsets.membership`."""
        return self._group_offsets.membership()

    def marked(self, offsets: Mapping[Partition, int]) -> list[TopicPartition]:
        """`offsets` ready to commit; see `GroupOffsets.marked`."""
        return self._group_offsets.marked(offsets)

    def lookup(self, partitions: Iterable[Partition], timeout_s: float) -> dict[Partition, int]:
        """The offsets that the group has committed; see `GroupOffsets.lookup`."""
        return self._group_offsets.lookup(partitions, timeout_s)

    def term(self, partition: Partition) -> int | None:
        """A number that changes whenever this partition is assigned anew; None while it is not assigned."""
        return self.offsets.terms.get(partition)

    def restart_stall_timer(self) -> None:
        """Begin to count a stall anew: its cause is being dealt with."""
        self._stalls.restart_timer()

    def lag(self) -> int | None:
        """Messages still to be read from the assigned partitions; None while that is not known.

        From the watermarks that came with the last fetches: asking for them costs a round trip, and the embedded
        broker answers it wrongly.
        """
        total = 0
        for partition in self.offsets.assigned:
            # Beyond the last record there may be control records of transactions up to the end.
            read = self.offsets.ends.get(partition, self.offsets.read.get(partition))
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if high < 0 and partition in self.offsets.ends:  # it has no leader just now
                continue
            if high < 0 or read is None:
                return None
            total += max(0, high - read)
        return total if self.offsets.assigned else None

    def close(self) -> None:
        """Leave the group; commits nothing, so close the sink first."""
        if self._closed:
            return
        self._closed = True
        self._assignment.close()
        # Closing a client under a call that is still inside it crashes the process. A member that does not leave is
        # dropped once its session times out.
        if self._calls.finished(self._settings.timeout_s):
            with self.watchdog("leaving the group", GRACE_S), connection.broker_errors(self._settings, "cannot leave"):
                self._finish_joining()
                self.consumer.close()
        self.watchdog.close()

    def _finish_joining(self) -> None:
        """Never leave a group of the embedded broker while joining it: Tansu 0.6 would assign it nothing any more."""
        if self.offsets.assigned or not self._embedded():
            return
        deadline = time.monotonic() + JOINED_LIMIT_S
        while not self.offsets.assigned and time.monotonic() < deadline:
            self.consumer.poll(POLL_S)

    def _embedded(self) -> bool:
        """Whether the broker answers and is the embedded one."""
        try:
            return clients.Broker.of(self.consumer, ANSWER_S).embedded
        except KafkaException:
            return False

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        return [record for message in messages if (record := self._record(message)) is not None]

    def _record(self, message: Message) -> Record | None:
        """The record of a message; None for the end of a partition and for errors, which are remembered."""
        error, topic, number, offset = message.error(), message.topic(), message.partition(), message.offset()
        partition = (topic or "", number or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self.offsets.end(partition, offset or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._start_offsets.add([partition])
            else:
                self._outage.note(error)
            return None
        assert topic is not None
        assert number is not None
        assert offset is not None
        return record_of(message) if self.offsets.take(partition, offset) else None

    def _check_topics(self) -> None:
        """Notice a topic that was deleted and created again: the group's offsets in it are gone."""
        with connection.broker_errors(self._settings, f"cannot look up the offsets of {self.group_id}"):
            changed = self._watch.look()
        for partition in changed:
            self._tell_gap(partition, "the topic was deleted and created again", True)
            self.offsets.since[partition] = OFFSET_BEGINNING  # all of the new topic is to be read
            self.offsets.ends.pop(partition, None)
        self._start_offsets.add(changed)
        self._watch.accept(changed)

    def _tell_gap(self, partition: Partition, reason: str, anew: bool) -> None:
        """Report an offset that is gone: an error unless `on_gap` was given.

        If the topic was created `anew`, nothing read from the partition counts any more, as if it had been lost.
        """
        topic, number = partition
        gap = f"the committed offset of the group {self.group_id} in {topic}[{number}] is gone: {reason}"
        if self._on_gap is None:
            raise gaps.error(self._settings, topic, self.group_id, gap)
        self._on_gap(gap)
        if anew:
            self._assignment.tell_lost(frozenset({partition}))

    def _seek(self, partition: Partition, offset: int) -> None:
        with connection.broker_errors(self._settings, f"cannot go to offset {offset} of {partition[0]}"):
            self.consumer.seek(TopicPartition(*partition, offset))
