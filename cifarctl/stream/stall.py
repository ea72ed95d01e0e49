"""Noticing a stalled stream: there is something to read, the broker answers, and nothing moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, options
from cifarctl.stream.background import StartCall
from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.paused import PausedPartitions
from cifarctl.stream.records import Partition

#: Seconds without progress after which a stream does not recover by itself: longer than a rebalance, a transaction that
#: times out (10 s, and the broker checks every 10 s) and the client's own waits for an answer.
STALL_S = 60.0
#: Transactions that may fail one after the other on a slow broker before a smaller one succeeds.
UNDONE_IN_A_ROW = 3
#: Between two checks. A longer gap counts as one interval: the process was suspended, or busy with something else.
TICK_S = 1.0
ASK_INTERVAL_S = 5.0
#: A broker that has not answered a question for that many seconds counts as away.
ANSWER_LIMIT_S = 5.0


class StallDetector:
    """Counts for how long each partition has had something to read without making progress."""

    def __init__(self, limit_s: float = STALL_S, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self.limit_s = limit_s
        self._clock = clock
        self._at = clock()
        self._furthest: dict[Partition, tuple[int, int]] = {}
        self._ages: dict[Partition, float] = {}

    def look(
        self, places: Mapping[Partition, tuple[int, int]], lags: Mapping[Partition, int] | None, *, idle: bool
    ) -> dict[Partition, int]:
        """The lag of each partition that has made no progress for `limit_s` seconds.

        Args:
            places: (offset read, offset committed) of each assigned partition. Either is progress: a slow broker may
                take long to commit what was read. Reading again what was read before is not.
            lags: messages still to be read of each partition, from the broker; None while it does not answer, which
                resets the count.
            idle: whether the last read returned nothing. While it returns records and other partitions move, a
                partition may have to wait its turn.
        """
        now = self._clock()
        passed, self._at = min(now - self._at, TICK_S), now
        before, self._furthest = self._furthest, {}
        moved = set()
        for partition, (read, done) in places.items():
            furthest = before.get(partition, (-2, -2))
            self._furthest[partition] = max(read, furthest[0]), max(done, furthest[1])
            if self._furthest[partition] != furthest:
                moved.add(partition)
        if lags is None:
            self._ages = {}
            return {}
        counts = passed if idle or not moved else 0.0
        behind = {partition: lag for partition, lag in lags.items() if lag > 0 and partition in places.keys() - moved}
        self._ages = {partition: self._ages.get(partition, 0.0) + counts for partition in behind}
        return {partition: behind[partition] for partition, age in self._ages.items() if age >= self.limit_s}

    def restart_timer(self) -> None:
        """Begin to count anew."""
        self._ages = {}


class Lags:
    """The lag of partitions that do not move: asked of the broker now and then, never waited for."""

    def __init__(
        self,
        ask: Callable[[Mapping[Partition, int]], Future[dict[Partition, int]]],
        on_silence: Callable[[KafkaError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` starts a query for the lag of partitions behind their offsets; `on_silence` hears why it failed."""
        self._ask, self._on_silence, self._clock = ask, on_silence, clock
        self._question: Future[dict[Partition, int]] | None = None
        self._asked = -math.inf
        self._places: dict[Partition, int] = {}  # when the last query was started
        self._answer: dict[Partition, int] | None = {}

    def look(self, places: Mapping[Partition, int]) -> dict[Partition, int] | None:
        """The lags by the last answer; None while the broker does not answer."""
        now = self._clock()
        if self._question is not None and self._question.done():
            question, self._question = self._question, None
            try:
                self._answer = question.result()
            except KafkaException as error:
                self._answer = None
                self._on_silence(error.args[0])
        if self._question is not None:
            if now - self._asked > ANSWER_LIMIT_S:
                self._answer = None
        elif now - self._asked >= ASK_INTERVAL_S:
            still = {each: place for each, place in places.items() if self._places.get(each) == place}
            self._places, self._asked = dict(places), now
            if still:
                self._question = self._ask(still)
            else:
                self._answer = {}
        return self._answer


class StallWatch:
    """Raises an error once the stream has stalled although the broker answers; never waits for the broker."""

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        start_call: StartCall,
        offsets: PartitionOffsets,
        on_silence: Callable[[KafkaError], None],
        progress: Literal["reads", "commits"],
    ) -> None:
        """`start_call` starts a call of `consumer`; `on_silence` hears why the broker did not answer; see `Source`."""
        self._consumer, self._start_call, self._offsets = consumer, start_call, offsets
        self._servers = settings.bootstrap_servers
        self._by_commits = progress == "commits"
        limit_s = STALL_S
        if self._by_commits:
            undone_s = UNDONE_IN_A_ROW * options.transaction_timeout_s(settings)
            limit_s = max(limit_s, undone_s) + settings.commit_interval_ms / 1000
        self._detector = StallDetector(limit_s)
        self._lags = Lags(lambda asked: start_call(self._ask_lags, asked), on_silence)
        self._lookup: Future[list[TopicPartition]] | None = None
        self._next = 0.0

    def check(self, paused: PausedPartitions, *, answering: bool, idle: bool) -> None:
        """Check once a second; to be called with every read.

        Args:
            paused: partitions that are held on purpose.
            answering: whether the broker answers.
            idle: see `StallDetector.look`.

        Raises:
            BrokerError: nothing has moved for too long; names the partitions.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TICK_S
        self._learn_committed(answering)
        watched = {each for each in self._offsets.assigned if self._by_commits or each not in paused}
        places = {each: (self._offsets.furthest(each), self._offsets.done(each)) for each in watched}
        lags = self._lags.look({partition: place[self._by_commits] for partition, place in places.items()})
        standing = self._detector.look(places, lags if answering else None, idle=idle)
        if standing:
            raise BrokerError(stall_message(standing, self._detector.limit_s, self._servers))

    def restart_timer(self) -> None:
        """Begin to count anew."""
        self._detector.restart_timer()

    def _learn_committed(self, answering: bool) -> None:
        """Look up the committed offsets of partitions from which nothing has been read yet."""
        known = self._offsets
        if self._lookup is not None and self._lookup.done():
            if self._lookup.exception() is None:  # else ask again
                for place in self._lookup.result():
                    partition = (place.topic, place.partition)
                    if place.error is None and place.offset >= 0 and partition in known.assigned:
                        known.committed.setdefault(partition, place.offset)
            self._lookup = None
        unknown = known.assigned - known.read.keys() - known.committed.keys()
        if self._lookup is None and unknown and answering:
            asked = [TopicPartition(*partition) for partition in sorted(unknown)]
            self._lookup = self._start_call(self._consumer.committed, asked, timeout=ANSWER_LIMIT_S)

    def _ask_lags(self, places: Mapping[Partition, int]) -> dict[Partition, int]:
        """Committed messages behind each offset; none from the embedded broker.

        Raises:
            KafkaException: the broker does not answer.
        """
        lags = {}
        topic = next(iter(places))[0]
        if clients.Broker.of(self._consumer, ANSWER_LIMIT_S, topic).embedded:
            return {}  # its watermarks are wrong
        for partition, place in places.items():
            try:
                bounds = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=ANSWER_LIMIT_S)
            except KafkaException as error:
                leaderless = (connection.TRANSIENT | connection.UNKNOWN_YET) - connection.UNREACHABLE
                if error.args[0].code() in leaderless:
                    continue  # nothing can be read there
                raise
            if bounds is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            low, end = bounds
            lags[partition] = end - max(place, low)
        return lags


def stall_message(lags: Mapping[Partition, int], limit_s: float, servers: str) -> str:
    """The message about a stalled stream: its partitions, their lag, and the remedy."""
    named = ", ".join(f"{topic}[{number}] (lag {lag:,})" for (topic, number), lag in sorted(lags.items()))
    return (
        f"{named}: no progress for {limit_s:g} s although {servers} answers and there are messages to read; start "
        "again, which resumes from the committed offsets; if it stalls again, set kafka.group_protocol to the other "
        "protocol (classic or consumer)"
    )
