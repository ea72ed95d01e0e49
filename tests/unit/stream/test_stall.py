"""A stream that stands still although the broker answers and there is something to read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from cifarctl.stream.records import Partition
from cifarctl.stream.stall import ANSWER_LIMIT_S, ASK_INTERVAL_S, Lags, StallDetector, stall_message

FIRST, SECOND = ("images", 0), ("images", 1)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """A detector that is shown the same thing once a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.detector = StallDetector(60.0, self.clock)

    def __call__(
        self, seconds: float, places: dict[Partition, int], lags: dict[Partition, int] | None, *, idle: bool = True
    ) -> dict[Partition, int]:
        found: dict[Partition, int] = {}
        for _ in range(round(seconds)):
            self.clock.now += 1.0
            found = self.detector.look({each: (place, 0) for each, place in places.items()}, lags, idle=idle)
        return found


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_minute_without_progress_is_noticed(watch: Watch) -> None:
    assert watch(59, {FIRST: 5, SECOND: 7}, {FIRST: 3, SECOND: 0}) == {}
    assert watch(2, {FIRST: 5, SECOND: 7}, {FIRST: 3, SECOND: 0}) == {FIRST: 3}


def test_progress_begins_the_minute_anew_and_going_back_is_none(watch: Watch) -> None:
    watch(50, {FIRST: 5}, {FIRST: 3})
    assert watch(50, {FIRST: 6}, {FIRST: 2}) == {}
    assert watch(5, {FIRST: 2}, {FIRST: 6}) == {}, "a rewind"
    assert watch(5, {FIRST: 6}, {FIRST: 2}) == {}
    assert watch(5, {FIRST: 6}, {FIRST: 2}) == {FIRST: 2}


def test_restarting_the_timer_begins_the_minute_anew(watch: Watch) -> None:
    assert watch(59, {FIRST: 5}, {FIRST: 3}) == {}
    watch.detector.restart_timer()
    assert watch(59, {FIRST: 5}, {FIRST: 3}) == {}
    assert watch(1, {FIRST: 5}, {FIRST: 3}) == {FIRST: 3}


def test_nothing_counts_while_the_broker_is_away(watch: Watch) -> None:
    watch(50, {FIRST: 5}, {FIRST: 3})
    assert watch(200, {FIRST: 5}, None) == {}
    assert watch(59, {FIRST: 5}, {FIRST: 3}) == {}
    assert watch(2, {FIRST: 5}, {FIRST: 3}) == {FIRST: 3}


def test_nothing_counts_while_nothing_is_to_be_read_or_nothing_is_assigned(watch: Watch) -> None:
    assert watch(200, {FIRST: 5}, {FIRST: 0}) == {}
    assert watch(200, {FIRST: 5}, {}) == {}
    assert watch(200, {}, {FIRST: 5}) == {}
    assert watch(59, {FIRST: 5}, {FIRST: 5}) == {}


def test_the_time_of_a_process_that_was_suspended_does_not_count(watch: Watch) -> None:
    watch(10, {FIRST: 5}, {FIRST: 3})
    watch.clock.now += 3600
    assert watch.detector.look({FIRST: (5, 0)}, {FIRST: 3}, idle=True) == {}
    assert watch(30, {FIRST: 5}, {FIRST: 3}) == {}


def test_a_partition_may_wait_its_turn_while_there_is_enough_to_do(watch: Watch) -> None:
    """A slow model works off what was fetched of one partition before it comes to the next."""
    for place in range(100):
        assert watch(1, {FIRST: place, SECOND: 0}, {FIRST: 1000, SECOND: 10}, idle=False) == {}
    found: dict[Partition, int] = {}
    for place in range(100, 170):
        found = watch(1, {FIRST: place, SECOND: 0}, {FIRST: 1000, SECOND: 10})
    assert found == {SECOND: 10}, "nothing was left to do, and yet it was not read"


def test_commits_of_what_was_read_long_ago_are_progress() -> None:
    """A slow broker takes what was read before, a little at a time, also after the rest was read again."""
    clock = Clock()
    detector = StallDetector(60.0, clock)
    for done in range(200):
        clock.now += 1.0
        assert detector.look({FIRST: (3000 if done < 50 else 1000, done)}, {FIRST: 3000 - done}, idle=True) == {}


def test_a_partition_that_goes_and_comes_back_begins_anew(watch: Watch) -> None:
    watch(50, {FIRST: 5}, {FIRST: 3})
    watch(1, {}, {})
    assert watch(50, {FIRST: 5}, {FIRST: 3}) == {}


class Questions:
    """A source of lags that answers when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[dict[Partition, int]] = []
        self.silences: list[KafkaError] = []
        self.future: Future[dict[Partition, int]] = Future()
        self.lags = Lags(self.ask, self.silences.append, self.clock)

    def ask(self, places: Mapping[Partition, int]) -> Future[dict[Partition, int]]:
        self.asked.append(dict(places))
        self.future = Future()
        return self.future

    def look(self, places: dict[Partition, int], after_s: float = ASK_INTERVAL_S) -> dict[Partition, int] | None:
        self.clock.now += after_s
        return self.lags.look(places)


def test_only_what_does_not_move_is_asked_about() -> None:
    questions = Questions()
    questions.look({FIRST: 1, SECOND: 1})
    assert questions.look({FIRST: 2, SECOND: 2}) == {}
    assert questions.asked == []
    questions.look({FIRST: 3, SECOND: 2})
    assert questions.asked == [{SECOND: 2}]
    questions.future.set_result({SECOND: 40})
    assert questions.look({FIRST: 3, SECOND: 2}, 0.1) == {SECOND: 40}


def test_a_broker_that_is_late_or_fails_does_not_answer_until_it_does() -> None:
    questions = Questions()
    questions.look({FIRST: 1})
    questions.look({FIRST: 1})
    assert questions.look({FIRST: 1}, ANSWER_LIMIT_S + 1) is None
    questions.future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    assert questions.look({FIRST: 1}, 0.1) is None
    assert [error.code() for error in questions.silences] == [KafkaError._TIMED_OUT]
    questions.future.set_result({FIRST: 4})
    assert questions.look({FIRST: 1}, 0.1) == {FIRST: 4}


def test_the_line_names_partitions_lag_and_what_to_do() -> None:
    line = stall_message({SECOND: 12_345, FIRST: 2}, 60.1, "kafka:9092")
    assert line.startswith(
        "images[0] (lag 2), images[1] (lag 12,345): no progress for 60.1 s although kafka:9092 answers"
    )
    assert "start again" in line
    assert "\n" not in line
