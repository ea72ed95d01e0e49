"""Reading topics within a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, ParamSpec, TypeAlias, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, limited
from cifarctl.stream.records import Partition, Record, record_of
from cifarctl.stream.watchdog import Watchdog

PartitionsCallback: TypeAlias = Callable[[frozenset[Partition]], None]

#: Seconds between questions to a broker that was lost whether it is back.
PROBE_INTERVAL_S = 1.0
#: Seconds beyond its time limit after which a call of the client counts as hung.
GRACE_S = 60.0
OVERTIME_S = 2.0  # the same for a call that is made in a thread of its own
#: For the place to begin at, which a broker tells in a few milliseconds.
BEGIN_WAIT_S = 0.2

P = ParamSpec("P")
T = TypeVar("T")

#: The group has moved on without us: whoever has the partitions now reads those records again.
OVERTAKEN = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError._ASSIGNMENT_LOST,
}
#: A partition that has just been added, or a broker that has just come back and knows no topics yet.
UNHEARD_OF = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}


class Source:
    """Records of some topics, as far as the group assigns their partitions to this process.

    A broker that goes away is waited for: `last_error` says so meanwhile. Nothing is committed by itself: a sink does
    that, and asks by `listen` to be told when partitions go away. A partition without a committed offset is read from
    its beginning; one whose committed offset has aged out is an error, never a silent skip.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        group_id: str | None = None,
        on_gap: Callable[[str], None] | None = None,
        start: Mapping[Partition, int] | None = None,
    ) -> None:
        """Join the group `group_id` (default: `kafka.group_id`); the first reads complete the joining.

        With `start`, partitions are read from there when they are first assigned, whatever the group has committed.
        With `on_gap`, a place that has aged out is told to that and reading goes on with the oldest record there is.

        Raises:
            BrokerError: no broker answers, or the subscription is refused.
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self._on_gap = on_gap
        self._start = dict(start or {})
        self.group_id = settings.group_id if group_id is None else group_id
        self.rebalances = 0
        self._assigned: set[Partition] = set()
        self._ended: dict[Partition, int] = {}  # offset of the end, of those that have been read up to it
        self._reached: set[Partition] = set()
        self._positions: dict[Partition, int] = {}  # next offset to read
        self._resume: dict[Partition, int] = {}  # first offset read since the last commit
        self._failure: KafkaError | None = None
        self._terms: dict[Partition, int] = {}
        self._leaving: frozenset[Partition] = frozenset()  # about to be revoked
        self._unread: set[Partition] = set()  # those of which the client does not know where to begin
        self._asked: dict[Partition, Future[tuple[int, int, int]]] = {}  # and what the broker has been asked
        self._beyond: dict[Partition, float] = {}  # those that should go on beyond their end, and how long that may be
        self._probe_at = 0.0
        self._held: Set[Partition] = frozenset()
        self._listeners: list[tuple[PartitionsCallback, PartitionsCallback]] = []
        self._closed = False
        self.watchdog = Watchdog()
        self._calls: set[Future[Any]] = set()
        self._commit: Future[Any] | None = None
        self._committing: dict[Partition, int] = {}
        options = clients.group_options(settings)
        self.consumer: Consumer = clients.consumer(settings, self.group_id, on_error=self._note, **options)
        with connection.broker_errors(settings, f"cannot subscribe to {', '.join(topics)}"):
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
        return bool(self._assigned) and self._assigned <= self._ended.keys() and self._failure is None

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return bool(self._assigned) and self._assigned <= self._reached

    @property
    def progress(self) -> int:
        """A number that changes with every record and with every end that is read for the first time."""
        return sum(self._positions.values()) + len(self._reached)

    @property
    def unfinished(self) -> list[str]:
        """The partitions that are still to be read to their end, as people name them."""
        return [f"{topic}[{number}]" for topic, number in sorted(self._assigned - self._reached)]

    @property
    def last_error(self) -> str | None:
        """What keeps the broker from answering, None while all is well."""
        return None if self._failure is None else self._failure.str()

    def listen(self, on_revoke: PartitionsCallback, on_lost: PartitionsCallback) -> None:
        """Call `on_revoke` before partitions go away (it may still commit), `on_lost` when they are gone."""
        self._listeners.append((on_revoke, on_lost))

    def read(self, max_messages: int, max_wait_s: float, fill_s: float = 0.0) -> list[Record]:
        """At most `max_messages` records: what is there once the first one is, within `max_wait_s` seconds.

        With `fill_s` it waits so many seconds longer for the batch to fill. Rebalances happen inside this call, so
        the callbacks of `listen` run in the caller's thread.

        Raises:
            BrokerError: the broker refuses for good (credentials, permission, a fatal error of the client), or an
                offset has aged out.
        """
        with self.watchdog("reading", max_wait_s + fill_s + GRACE_S):
            with connection.broker_errors(self._settings, "cannot read"):
                messages = self.consumer.consume(1, max_wait_s)
                records = self._records(messages)
                if messages and max_messages > 1:
                    messages = self.consumer.consume(max_messages - 1, fill_s)
                    # A rebalance or a rewind in between takes back what the first call has brought.
                    records = [r for r in records if r.offset < self._positions.get((r.topic, r.partition), 0)]
                    records += self._records(messages)
            if self._unread:
                self._begin()
            if self._failure is not None:
                self._handle_failure(self._failure)
        return records

    def hold(self, partitions: Set[Partition]) -> None:
        """Fetch nothing of these partitions, and all of the others; what was fetched before is fetched again later.

        Rebalances and heartbeats are served by `read` all the same.
        """
        wanted = self._assigned & partitions
        changes = ((self.consumer.resume, self._held - wanted), (self.consumer.pause, wanted - self._held))
        with connection.broker_errors(self._settings, "cannot pause"):
            for change, of in changes:
                if of:
                    change([TopicPartition(*partition) for partition in of])
        self._held = wanted

    def group_metadata(self) -> Any:
        """What a transaction needs so that the offsets of a member that the group has dropped are refused.

        Raises:
            KafkaException: this process is no member at the moment; offsets of nobody in particular are not refused.
        """
        metadata = self.consumer.consumer_group_metadata()
        if not self.consumer.memberid():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        return metadata

    def term(self, partition: Partition) -> int | None:
        """A number that changes whenever this partition is assigned anew; None while it is not."""
        return self._terms.get(partition)

    def lookup(self, partitions: Iterable[Partition], timeout_s: float) -> dict[Partition, int]:
        """The offsets that the group has committed; of partitions that are read here, nobody else moves them.

        Raises:
            KafkaException: the broker does not answer, or not for each of them.
            concurrent.futures.TimeoutError: the client does not even say so.
        """
        places = [TopicPartition(*partition) for partition in partitions]
        if not places:
            return {}
        found = self._call(self.consumer.committed, places, timeout=timeout_s).result(timeout_s + OVERTIME_S)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {(place.topic, place.partition): place.offset for place in found}

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note that all before these offsets is done with."""
        for partition, offset in offsets.items():
            if partition in self._resume:
                self._resume[partition] = max(self._resume[partition], offset)

    def rewind(self) -> None:
        """Read again what has been read since the last commit."""
        self.hold(frozenset())  # a pause that ends after the seek would go on at the place before it
        for partition, offset in self._resume.items():
            here = partition in self._assigned and partition not in self._leaving
            if here and self._positions.get(partition) != offset:
                self._seek(partition, offset)
                self._positions[partition] = offset
                self._ended.pop(partition, None)

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float | None = None) -> bool:
        """Commit the next offset of each partition; False when the broker did not answer within `timeout_s` seconds.

        Default is `kafka.timeout_s`. Partitions that have moved on meanwhile are dropped quietly: who has them now
        reads those records again.

        Raises:
            BrokerError: the broker refuses.
        """
        if not offsets and self._commit is None:
            return True
        # In a thread: the client's own limit is a minute or more, and nothing is to wait so long.
        if self._commit is None:
            places = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
            self._commit = self._call(self.consumer.commit, offsets=places, asynchronous=False)
            self._committing = dict(offsets)
        try:
            results = self._commit.result(self._settings.timeout_s if timeout_s is None else timeout_s)
            self._commit = None
            for result in results:
                if result.error is not None:
                    raise KafkaException(result.error)
        except FutureTimeout:
            return False
        except KafkaException as error:
            self._commit = None
            code = error.args[0].code()
            if code in connection.TRANSIENT:
                connection.logger.warning("commit is put off: %s", error)
                return False
            if code not in OVERTAKEN:
                raise connection.explain(self._settings, "cannot commit offsets", error.args[0]) from None
            connection.logger.warning("partitions have moved on, their records are read again: %s", error)
            return True
        self.committed(self._committing)
        # Where an earlier commit was still on its way, what came since is to be committed yet.
        return self._committing == dict(offsets)

    def lag(self) -> int | None:
        """Messages still to be read from the assigned partitions; None while that is not known.

        From the watermarks that came with the last fetches: asking for them anew costs a round trip, and the
        embedded broker answers it wrongly.
        """
        total = 0
        for partition in self._assigned:
            # Beyond the last record there may be marks of transactions up to the end.
            read = self._ended.get(partition, self._positions.get(partition))
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if high < 0 and partition in self._ended:  # it has no leader just now
                continue
            if high < 0 or read is None:
                return None
            total += max(0, high - read)
        return total if self._assigned else None

    def close(self) -> None:
        """Leave the group; commits nothing, so close the sink first."""
        if self._closed:
            return
        self._closed = True
        self._listeners.clear()
        # To close a client under a call that is still in it brings the process down; a member that is not closed is
        # missed once its session is over.
        _, running = wait(list(self._calls), self._settings.timeout_s)
        if not running:
            with self.watchdog("leaving the group", GRACE_S), connection.broker_errors(self._settings, "cannot leave"):
                self.consumer.close()
        self.watchdog.close()

    def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A call of the client that need not be waited for to its end."""
        future = limited.begin(call, *args, **kwargs)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        return [record for message in messages if (record := self._record(message)) is not None]

    def _record(self, message: Message) -> Record | None:
        """The record of a message; None for the end of a partition and for errors, which are remembered."""
        error, topic, number, offset = message.error(), message.topic(), message.partition(), message.offset()
        partition = (topic or "", number or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                if partition in self._assigned:  # as below
                    self._ended[partition] = offset or 0
                    self._reached.add(partition)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._unread.add(partition)
            else:
                self._note(error)
            return None
        assert topic is not None
        assert number is not None
        assert offset is not None
        # Fetched before a rebalance or a rewind, delivered after it.
        if partition not in self._assigned or offset < self._positions.get(partition, 0):
            return None
        self._ended.pop(partition, None)
        self._positions[partition] = offset + 1
        self._resume.setdefault(partition, offset)
        return record_of(message)

    def _begin(self) -> None:
        """Start reading the partitions of which the client knows no place to begin at, each as soon as that is known.

        Nobody waits for a broker that does not say: the other partitions are read meanwhile.
        """
        unasked = (self._unread & self._assigned) - self._asked.keys()
        asked = {each: self._call(self._place, each, self._resume.get(each)) for each in unasked}
        self._asked |= asked
        wait(list(asked.values()), BEGIN_WAIT_S)
        for partition, answer in list(self._asked.items()):
            if not answer.done():
                continue
            del self._asked[partition]
            try:
                offset, oldest, end = answer.result()
            except KafkaException as error:
                if error.args[0].code() in connection.TRANSIENT | UNHEARD_OF:
                    continue  # asked again with the next read
                raise connection.explain(self._settings, "cannot look up offsets", error.args[0]) from None
            if offset > end and time.monotonic() < self._beyond.setdefault(
                partition, time.monotonic() + self._settings.timeout_s
            ):
                continue  # a leader that has just taken over does not know its end yet
            self._beyond.pop(partition, None)
            self._unread.discard(partition)
            if oldest <= offset <= end:  # it is there after all
                oldest = offset
            elif offset >= 0:
                self._tell_gap(partition, offset)
            with connection.broker_errors(self._settings, f"cannot begin to read {partition[0]}"):
                # A partition without a place to begin at is not being fetched, so that seeking does nothing. The place
                # is a number, never OFFSET_BEGINNING: librdkafka 2.16 looks that up by itself, and when the partition
                # is revoked meanwhile it applies the answer to its next assignment, whatever the group has committed.
                self._held = self._held - {partition}
                self.consumer.incremental_unassign([TopicPartition(*partition)])
                self.consumer.incremental_assign([TopicPartition(*partition, oldest)])

    def _place(self, partition: Partition, resume: int | None) -> tuple[int, int, int]:
        """The offset at which the group should go on, negative where it knows none, the oldest there is, and the end.

        Raises:
            KafkaException: the broker does not tell.
        """
        limit = self._settings.timeout_s
        (found,) = self.consumer.committed([TopicPartition(*partition)], timeout=limit)
        if found.error is not None:
            raise KafkaException(found.error)
        offset = found.offset if resume is None else resume
        bounds = self.consumer.get_watermark_offsets(TopicPartition(*partition), timeout=limit)
        if bounds is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return (offset, *bounds)

    def _tell_gap(self, partition: Partition, offset: int) -> None:
        """A place that is gone: an error, but for whoever has asked to be told instead."""
        topic, number = partition
        gap = (
            f"offset {offset} of {topic}[{number}], where the group {self.group_id} is to go on, is not there any "
            "more: messages have aged out unread, or the topic was made anew"
        )
        if self._on_gap is None:
            raise BrokerError(
                f"{gap}; decide with `serve --from beginning` or `--from end`, and raise the topic's retention.ms"
            )
        self._on_gap(gap)
        self._resume.pop(partition, None)

    def _seek(self, partition: Partition, offset: int) -> None:
        with connection.broker_errors(self._settings, f"cannot go to offset {offset} of {partition[0]}"):
            self.consumer.seek(TopicPartition(*partition, offset))

    def _note(self, error: KafkaError) -> None:
        """Called by the client from within consume, so it must not raise."""
        connection.logger.info("%s", error)
        if self._failure is None or _final(error) or not _final(self._failure):
            self._failure = error

    def _handle_failure(self, failure: KafkaError) -> None:
        if _final(failure):
            raise connection.explain(self._settings, "cannot read", failure)
        now = time.monotonic()
        if now >= self._probe_at:
            # Messages prove nothing, they may have been fetched before; no event tells of a new connection.
            self._probe_at = now + PROBE_INTERVAL_S
            try:
                self.consumer.list_topics(timeout=0.5)
                self._failure = None
            except KafkaException as error:
                self._failure = error.args[0]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        if self._start:
            for place in partitions:
                place.offset = self._start.pop((place.topic, place.partition), place.offset)
            consumer.incremental_assign(partitions)
        self._assigned |= _named(partitions)
        self._terms |= dict.fromkeys(_named(partitions), self.rebalances)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        self._leaving = gone = _named(partitions)
        try:
            for revoked, _lost in self._listeners:
                revoked(gone)
        finally:
            self._leaving = frozenset()
            self._forget(gone)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        gone = _named(partitions)
        self._forget(gone)
        for _revoked, lost in self._listeners:
            lost(gone)

    def _forget(self, gone: frozenset[Partition]) -> None:
        self._assigned -= gone
        self._held = self._held - gone
        self._reached -= gone
        self._unread -= gone
        for partition in gone:
            self._asked.pop(partition, None)
            self._beyond.pop(partition, None)
            self._ended.pop(partition, None)
            self._positions.pop(partition, None)
            self._resume.pop(partition, None)
            self._terms.pop(partition, None)


def _final(error: KafkaError) -> bool:
    """Waiting does not help: the client is broken, or the broker does not want us."""
    return error.fatal() or error.code() in connection.UNAUTHENTICATED | connection.FORBIDDEN


def _named(partitions: Sequence[TopicPartition]) -> frozenset[Partition]:
    return frozenset((partition.topic, partition.partition) for partition in partitions)
