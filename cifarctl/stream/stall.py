"""Noticing a stream that stands still: there is something to read, the broker answers, and nothing moves."""

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
from cifarctl.stream.holds import Holds
from cifarctl.stream.limited import Begin
from cifarctl.stream.places import Places
from cifarctl.stream.records import Partition

#: Seconds without any progress after which a stream does not get going again by itself: longer than a rebalance, a
#: transaction that times out (10 s, and the broker looks every 10 s) and the client's own waits for an answer.
STALL_S = 60.0
#: Transactions that may come to nothing one after the other before a smaller one is done, on a slow broker.
UNDONE_IN_A_ROW = 3
#: Between two looks. A longer gap counts as this: the process was suspended, or busy with something else.
TICK_S = 1.0
ASK_INTERVAL_S = 5.0
#: A broker that has not answered a question for so long counts as away.
ANSWER_LIMIT_S = 5.0


class StallDetector:
    """Counts for how long each partition has had something to read while nothing of it came."""

    def __init__(self, limit_s: float = STALL_S, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self.limit_s = limit_s
        self._clock = clock
        self._at = clock()
        self._furthest: dict[Partition, tuple[int, int]] = {}
        self._ages: dict[Partition, float] = {}

    def look(
        self, places: Mapping[Partition, tuple[int, int]], lags: Mapping[Partition, int] | None, *, hungry: bool
    ) -> dict[Partition, int]:
        """The lag of each partition that has stood still for the limit.

        Args:
            places: the offsets up to which each assigned partition was read, and was done with. Either is progress: a
                slow broker may take what was read long ago. To go back and come again is none.
            lags: messages still to be read of each, as the broker says; None where it does not answer, which stops the
                count.
            hungry: nothing was left to do. While there is, and other partitions move, one may have to wait its turn.
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
        counts = passed if hungry or not moved else 0.0
        behind = {partition: lag for partition, lag in lags.items() if lag > 0 and partition in places.keys() - moved}
        self._ages = {partition: self._ages.get(partition, 0.0) + counts for partition in behind}
        return {partition: behind[partition] for partition, age in self._ages.items() if age >= self.limit_s}

    def excuse(self) -> None:
        """Begin to count anew."""
        self._ages = {}


class Lags:
    """What the broker says is still to be read of partitions that do not move: asked now and then, never awaited."""

    def __init__(
        self,
        ask: Callable[[Mapping[Partition, int]], Future[dict[Partition, int]]],
        on_silence: Callable[[KafkaError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` begins a question for the lag of partitions behind their places; `on_silence` hears why none came."""
        self._ask, self._on_silence, self._clock = ask, on_silence, clock
        self._question: Future[dict[Partition, int]] | None = None
        self._asked = -math.inf
        self._places: dict[Partition, int] = {}  # when the last question was put
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
    """Ends a reader whose stream stands still although the broker answers; asks the broker, and waits for nobody."""

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        begin: Begin,
        places: Places,
        on_silence: Callable[[KafkaError], None],
        progress: Literal["reads", "commits"],
    ) -> None:
        """`begin` begins a call of `consumer`; `on_silence` hears why the broker gave no answer; see also `Source`."""
        self._consumer, self._begin, self._places = consumer, begin, places
        self._servers = settings.bootstrap_servers
        self._by_commits = progress == "commits"
        limit_s = STALL_S
        if self._by_commits:
            undone_s = UNDONE_IN_A_ROW * options.transaction_timeout_s(settings)
            limit_s = max(limit_s, undone_s) + settings.commit_interval_ms / 1000
        self._detector = StallDetector(limit_s)
        self._lags = Lags(lambda asked: begin(self._ask_lags, asked), on_silence)
        self._lookup: Future[list[TopicPartition]] | None = None
        self._next = 0.0

    def look(self, held: Holds, *, answering: bool, hungry: bool) -> None:
        """To be called with every read; looks once a second.

        Args:
            held: partitions of which nothing is fetched on purpose.
            answering: whether the broker does.
            hungry: see `StallDetector.look`.

        Raises:
            BrokerError: nothing has moved for too long; names the partitions.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TICK_S
        self._learn_committed(answering)
        watched = {each for each in self._places.assigned if self._by_commits or each not in held}
        places = {partition: (self._places.furthest(partition), self._places.done(partition)) for partition in watched}
        lags = self._lags.look({partition: place[self._by_commits] for partition, place in places.items()})
        standing = self._detector.look(places, lags if answering else None, hungry=hungry)
        if standing:
            raise BrokerError(told(standing, self._detector.limit_s, self._servers))

    def excuse(self) -> None:
        """See `StallDetector.excuse`."""
        self._detector.excuse()

    def _learn_committed(self, answering: bool) -> None:
        """Ask where the group goes on in partitions of which nothing has been read yet."""
        known = self._places
        if self._lookup is not None and self._lookup.done():
            if self._lookup.exception() is None:  # else it is asked again
                for place in self._lookup.result():
                    partition = (place.topic, place.partition)
                    if place.error is None and place.offset >= 0 and partition in known.assigned:
                        known.committed.setdefault(partition, place.offset)
            self._lookup = None
        unknown = known.assigned - known.read.keys() - known.committed.keys()
        if self._lookup is None and unknown and answering:
            asked = [TopicPartition(*partition) for partition in sorted(unknown)]
            self._lookup = self._begin(self._consumer.committed, asked, timeout=ANSWER_LIMIT_S)

    def _ask_lags(self, places: Mapping[Partition, int]) -> dict[Partition, int]:
        """Messages behind each place that a reader of committed messages may have by now; none of the embedded broker.

        Raises:
            KafkaException: the broker does not answer.
        """
        lags = {}
        topic = next(iter(places))[0]
        if clients.Broker.of(self._consumer, ANSWER_LIMIT_S, topic).embedded:
            return {}  # it answers with other numbers
        for partition, place in places.items():
            try:
                bounds = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=ANSWER_LIMIT_S)
            except KafkaException as error:
                leaderless = (connection.TRANSIENT | connection.UNHEARD_OF) - connection.UNREACHABLE
                if error.args[0].code() in leaderless:
                    continue  # nothing can be read there
                raise
            if bounds is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            low, end = bounds
            lags[partition] = end - max(place, low)
        return lags


def told(lags: Mapping[Partition, int], limit_s: float, servers: str) -> str:
    """The line about a stream that stands still: which partitions, how far behind, and what to do."""
    named = ", ".join(f"{topic}[{number}] (lag {lag:,})" for (topic, number), lag in sorted(lags.items()))
    return (
        f"{named}: no progress for {limit_s:g} s although {servers} answers and there are messages to read; start it "
        "again, it goes on from what is committed; where it happens again, set kafka.group_protocol to the other "
        "protocol (classic or consumer)"
    )
