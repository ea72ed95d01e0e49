"""Reading topics within a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, gaps, limited
from cifarctl.stream.beginnings import Beginnings
from cifarctl.stream.holds import Holds
from cifarctl.stream.identity import Watch
from cifarctl.stream.places import Places
from cifarctl.stream.records import Partition, Record, record_of
from cifarctl.stream.stall import StallWatch
from cifarctl.stream.watchdog import Watchdog

PartitionsCallback: TypeAlias = Callable[[frozenset[Partition]], None]

#: Seconds between questions to a broker that was lost whether it is back.
PROBE_INTERVAL_S = 1.0
#: Seconds beyond its time limit after which a call of the client counts as hung.
GRACE_S = 60.0
OVERTIME_S = 2.0  # the same for a call that is made in a thread of its own
#: For the first partitions of a member that leaves the embedded broker, which assigns them within 1 to 5 s.
JOINED_LIMIT_S = 20.0
POLL_S = 0.1
ANSWER_S = 2.0  # for a broker to tell which one it is

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


class Source:
    """Records of some topics, as far as the group assigns their partitions to this process.

    A broker that goes away is waited for: `last_error` says so meanwhile. Nothing is committed by itself: a sink does
    that, and asks by `listen` to be told when partitions go away. A partition without a committed offset is read from
    its beginning; one whose committed offset has aged out is an error, never a silent skip. A stream that stands still
    although the broker answers is one, too.
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

        With `start`, partitions are read from there when they are first assigned, whatever the group has committed.
        With `on_gap`, a place that has aged out is told to that and reading goes on with the oldest record there is.
        `progress` says what is missed when the stream stands still: reads, but for partitions that are held, or commits
        of all that is read, by `kafka.commit_interval_ms`, whatever is held.

        Raises:
            BrokerError: no broker answers, or the subscription is refused.
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self._on_gap = on_gap
        self._start = dict(start or {})
        self.group_id = settings.group_id if group_id is None else group_id
        self.rebalances = 0
        self.places = Places()
        self._failure: KafkaError | None = None
        self._leaving: frozenset[Partition] = frozenset()  # about to be revoked
        self._probe_at = 0.0
        self._listeners: list[tuple[PartitionsCallback, PartitionsCallback]] = []
        self._closed = False
        self.watchdog = Watchdog()
        self._calls: set[Future[Any]] = set()
        self._commit: Future[Any] | None = None
        self._committing: dict[Partition, int] = {}
        options = clients.group_options(settings)
        self.consumer: Consumer = clients.consumer(settings, self.group_id, on_error=self._note, **options)
        self._holds = Holds(self.consumer)
        self._beginnings = Beginnings(settings, self.consumer, self._call, self.places, self._holds, self._tell_gap)
        self._stalls = StallWatch(settings, self.consumer, self._call, self.places, self._silent, progress)
        self._watch = Watch(settings, topics, self._call, partial(self.consumer.committed, timeout=settings.timeout_s))
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
        return frozenset(self.places.assigned)

    @property
    def drained(self) -> bool:
        """Whether partitions are assigned, all were read to their end, and the broker is there to say so."""
        return self.places.drained and self._failure is None

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return self.places.caught_up

    @property
    def progress(self) -> int:
        """A number that changes with every record and with every end that is read for the first time."""
        return sum(self.places.read.values()) + len(self.places.reached)

    @property
    def unfinished(self) -> list[str]:
        """The partitions that are still to be read to their end, as people name them."""
        return [f"{topic}[{number}]" for topic, number in sorted(self.places.assigned - self.places.reached)]

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
            BrokerError: the broker refuses for good (credentials, permission, a fatal error of the client), an offset
                has aged out, a topic was made anew, or nothing has moved for a minute though the broker answers.
        """
        with self.watchdog("reading", max_wait_s + fill_s + GRACE_S):
            with connection.broker_errors(self._settings, "cannot read"):
                messages = self.consumer.consume(1, max_wait_s)
                records = self._records(messages)
                if messages and max_messages > 1:
                    messages = self.consumer.consume(max_messages - 1, fill_s)
                    # A rebalance or a rewind in between takes back what the first call has brought.
                    records = [r for r in records if r.offset < self.places.read.get((r.topic, r.partition), 0)]
                    records += self._records(messages)
            self._look()
            self._beginnings.look()
            if self._failure is not None:
                self._handle_failure(self._failure)
            self._stalls.look(self._holds, answering=self._failure is None, hungry=not records)
        return records

    def hold(self, partitions: Set[Partition]) -> None:
        """Fetch nothing of these partitions, and all of the others; what was fetched before is fetched again later.

        Rebalances and heartbeats are served by `read` all the same.
        """
        with connection.broker_errors(self._settings, "cannot pause"):
            self._holds.only(self.places.assigned & partitions)

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
        return self.places.terms.get(partition)

    def marked(self, offsets: Mapping[Partition, int]) -> list[TopicPartition]:
        """`offsets` as they are to be committed, each with the id of its topic and what of it was skipped.

        Raises:
            KafkaException: these are not known yet: read, and try again.
        """
        return self._watch.marked(offsets)

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

    def settled(self, handled: Mapping[Partition, int]) -> dict[Partition, int]:
        """What to commit when all records before `handled` are done with; see `Places.settled`."""
        return self.places.settled(handled)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note that all before these offsets is done with."""
        self.places.commit(offsets)

    def excuse(self) -> None:
        """Count from now on for how long nothing has moved: what it waits for is being mended."""
        self._stalls.excuse()

    def rewind(self) -> None:
        """Read again what has been read since the last commit."""
        self.hold(frozenset())  # a pause that ends after the seek would go on at the place before it
        for partition, offset in self.places.uncommitted().items():
            if partition not in self._leaving:
                self._seek(partition, offset)
                self.places.rewind(partition, offset)

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
        try:
            if self._commit is None:
                places = self.marked(offsets)
                self._commit = self._call(self.consumer.commit, offsets=places, asynchronous=False)
                self._committing = dict(offsets)
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
        for partition in self.places.assigned:
            # Beyond the last record there may be marks of transactions up to the end.
            read = self.places.ends.get(partition, self.places.read.get(partition))
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if high < 0 and partition in self.places.ends:  # it has no leader just now
                continue
            if high < 0 or read is None:
                return None
            total += max(0, high - read)
        return total if self.places.assigned else None

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
                self._finish_joining()
                self.consumer.close()
        self.watchdog.close()

    def _finish_joining(self) -> None:
        """Never leave a group of the embedded broker while joining it: Tansu 0.6 would assign it nothing any more."""
        if self.places.assigned or not self._embedded():
            return
        deadline = time.monotonic() + JOINED_LIMIT_S
        while not self.places.assigned and time.monotonic() < deadline:
            self.consumer.poll(POLL_S)

    def _embedded(self) -> bool:
        """Whether the broker is the embedded one, and there."""
        try:
            return clients.Broker.of(self.consumer, ANSWER_S).embedded
        except KafkaException:
            return False

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
                self.places.end(partition, offset or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._beginnings.add([partition])
            else:
                self._note(error)
            return None
        assert topic is not None
        assert number is not None
        assert offset is not None
        return record_of(message) if self.places.take(partition, offset) else None

    def _look(self) -> None:
        """Notice a topic that was made anew under the group's offsets: an error, as a place that is gone is."""
        with connection.broker_errors(self._settings, f"cannot look up the offsets of {self.group_id}"):
            changed = self._watch.look()
        for partition in changed:
            self._tell_gap(partition, "the topic was deleted and made anew under it", True)
            self.places.since[partition] = OFFSET_BEGINNING  # all of the new topic is to be read
            self.places.ends.pop(partition, None)
        self._beginnings.add(changed)
        self._watch.accept(changed)

    def _tell_gap(self, partition: Partition, reason: str, anew: bool) -> None:
        """A place that is gone: an error, but for whoever has asked to be told instead.

        Where the topic was made `anew`, nothing that was read of the partition counts any more, as if it had been lost.
        """
        topic, number = partition
        gap = f"the place of the group {self.group_id} in {topic}[{number}] is not there any more: {reason}"
        if self._on_gap is None:
            raise gaps.error(self._settings, topic, self.group_id, gap)
        self._on_gap(gap)
        for _revoked, lost in self._listeners if anew else ():
            lost(frozenset({partition}))

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

    def _silent(self, error: KafkaError) -> None:
        """A broker that is only halted keeps its connections, so nothing else would tell that it does not answer."""
        if error.code() in connection.UNREACHABLE and self._failure is None:
            self._note(error)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.rebalances += 1
        self._holds.release(_named(partitions))
        if self._start:
            for place in partitions:
                partition = (place.topic, place.partition)
                if partition in self._start:
                    place.offset = self.places.committed[partition] = self._start.pop(partition)
            consumer.incremental_assign(partitions)
        self.places.assign(_named(partitions), self.rebalances)
        self._watch.assigned(_named(partitions))

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
        self.places.forget(gone)
        self._holds.release(gone)
        self._watch.forget(gone)
        self._beginnings.forget(gone)


def _final(error: KafkaError) -> bool:
    """Waiting does not help: the client is broken, or the broker does not want us."""
    return error.fatal() or error.code() in connection.UNAUTHENTICATED | connection.FORBIDDEN


def _named(partitions: Sequence[TopicPartition]) -> frozenset[Partition]:
    return frozenset((partition.topic, partition.partition) for partition in partitions)
