"""Rebalances at the worst moments, which a real broker brings about too seldom: a scripted client and sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from helpers import Home

from cifarctl.errors import BrokerError
from cifarctl.registry.loading import load
from cifarctl.serving.pipeline import InferencePipeline, Model
from cifarctl.settings import KafkaSettings, ServeSettings
from cifarctl.stream import clients, gaps
from cifarctl.stream.clients import Topics
from cifarctl.stream.records import DeadLetter, Record
from cifarctl.stream.sink import Commit
from cifarctl.stream.source import Partition, Source

TOPIC = "t"
FIRST, SECOND = (TOPIC, 0), (TOPIC, 1)


class Placed:
    """What a fetch brings: it lies at a place of the topic."""

    def __init__(self, partition: int, offset: int) -> None:
        self._place = (partition, offset)

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]


class ScriptedMessage(Placed):
    """An image."""

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> bytes:
        return b"%d-%d" % self._place

    def value(self) -> bytes:
        return bytes(3072)

    def headers(self) -> None:
        return None


class ScriptedReset:
    """The client knows no place to begin at."""

    def __init__(self, partition: int) -> None:
        self._partition = partition

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._AUTO_OFFSET_RESET)

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> None:
        return None


class ScriptedEnd(Placed):
    """The end of a partition."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._PARTITION_EOF)


class ScriptedConsumer:
    """Partitions of endless images; `during` runs inside the next call of consume after a first one.

    The images of partition 1 begin at offset 7, and the group has committed nothing of it. As librdkafka does, it keeps
    a pause whatever becomes of the assignment.
    """

    def __init__(self) -> None:
        self.next = {0: 0, 1: 0}
        self.begun: list[tuple[int, int]] = []
        self.reset: list[int] = []
        self.paused: set[int] = set()
        self.ends: list[tuple[int, int]] = []  # partition, offset: instead of images
        self.leaderless: set[int] = set()
        self.refusal = KafkaError.LEADER_NOT_AVAILABLE
        self.known, self.end = OFFSET_INVALID, 1_000_000
        self.during: Callable[[], object] | None = None
        self.on: dict[str, Callable[[Any, list[TopicPartition]], None]] = {}

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self.on = callbacks

    def rebalance(self, kind: str, *numbers: int) -> None:
        self.on[kind](self, [TopicPartition(TOPIC, number) for number in numbers])

    def consume(self, count: int, _timeout: float) -> Sequence[ScriptedMessage | ScriptedReset | ScriptedEnd]:
        if count > 1 and self.during is not None:
            during, self.during = self.during, None
            during()
            return []
        if self.reset:
            reset, self.reset = self.reset, []
            return [ScriptedReset(number) for number in reset]
        if self.ends:
            ends, self.ends = self.ends, []
            return [ScriptedEnd(*place) for place in ends]
        if 0 in self.paused:
            return []
        offset = self.next[0]
        self.next[0] += count
        return [ScriptedMessage(0, number) for number in range(offset, offset + count)]

    def seek(self, place: TopicPartition) -> None:
        self.next[place.partition] = place.offset

    def pause(self, places: list[TopicPartition]) -> None:
        self.paused |= {place.partition for place in places}

    def resume(self, places: list[TopicPartition]) -> None:
        self.paused -= {place.partition for place in places}

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert timeout > 0
        return [TopicPartition(TOPIC, place.partition, self.known) for place in places]

    def incremental_unassign(self, _places: list[TopicPartition]) -> None: ...

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.begun += [(place.partition, place.offset) for place in places]

    def get_watermark_offsets(self, place: TopicPartition, **_: Any) -> tuple[int, int]:
        if place.partition in self.leaderless:
            raise KafkaException(KafkaError(self.refusal))
        return 7 * place.partition, self.end

    def close(self) -> None: ...


class ScriptedSink:
    """Answers commits as the script says; what is DONE is what was tracked."""

    delivery, commits, undone, pending = "scripted", 0, 0, 0
    commit_size, full, largest = 10_000, False, 1_000_000

    def __init__(self, source: Source, script: Iterator[Commit]) -> None:
        self._source, self._script = source, script
        self._tracked: dict[Partition, int] = {}
        self.busy = False
        self.committed: list[Record] = []
        self.letters: list[DeadLetter] = []
        self._open: list[Record] = []

    def send(self, *_: Any) -> None:
        assert not self.busy

    def send_letter(self, _topic: str, letter: DeadLetter) -> None:
        assert not self.busy
        self.letters.append(letter)

    def limit(self, _topic: str) -> int:
        return self.largest

    def track(self, records: Sequence[Record]) -> None:
        self._open += records
        self._tracked |= {(record.topic, record.partition): record.offset + 1 for record in records}

    def due(self) -> bool:
        return bool(self._tracked)

    def news(self) -> list[str]:
        return []

    def commit(self, _timeout_s: float | None = None) -> Commit:
        outcome = next(self._script)
        self.busy = outcome is Commit.PENDING
        if outcome is Commit.DONE:
            self._source.committed(self._tracked)
            self.committed += self._open
        if outcome is not Commit.PENDING:
            self._tracked, self._open = {}, []
        return outcome

    def undo(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> ScriptedConsumer:
    scripted = ScriptedConsumer()
    monkeypatch.setattr(clients, "consumer", lambda *_, **__: scripted)
    return scripted


@pytest.fixture
def source(client: ScriptedConsumer) -> Iterator[Source]:
    with Source(KafkaSettings(group_protocol="classic"), [TOPIC]) as opened:
        client.rebalance("on_assign", 0, 1)
        yield opened


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


def test_a_rewind_in_the_middle_of_a_read_takes_back_what_was_read(client: ScriptedConsumer, source: Source) -> None:
    assert offsets(source.read(10, 0)) == list(range(10))

    def revoke() -> None:
        client.rebalance("on_revoke", 1)

    source.listen(lambda _: source.rewind(), lambda _: None)
    client.during = revoke
    assert source.read(10, 0) == []
    assert offsets(source.read(10, 0)) == list(range(10))


@pytest.mark.parametrize("way", ["on_revoke", "on_lost"])
def test_what_was_held_is_read_when_it_comes_back(client: ScriptedConsumer, source: Source, way: str) -> None:
    """The client keeps a pause across assignments, even if its caller has forgotten it."""
    source.read(10, 0)
    source.hold(source.assigned)
    assert client.paused == {0, 1}
    client.rebalance(way, 0, 1)
    client.rebalance("on_assign", 0, 1)
    source.hold(frozenset())
    assert client.paused == set()
    assert offsets(source.read(10, 0)) == list(range(10, 20))


def test_what_the_client_has_paused_unasked_is_read_when_it_is_assigned(
    client: ScriptedConsumer, source: Source
) -> None:
    client.rebalance("on_revoke", 0)
    client.paused = {0}
    client.rebalance("on_assign", 0)
    assert offsets(source.read(10, 0)) == list(range(10))


def test_a_place_to_begin_at_is_read_although_the_partition_was_held(client: ScriptedConsumer, source: Source) -> None:
    client.reset = [0]
    client.during = lambda: source.hold(source.assigned)
    source.read(10, 0)
    source.hold(source.assigned)
    client.reset = [0]
    source.read(10, 0)
    assert 0 not in client.paused


def test_a_rewind_reads_again_what_was_held(client: ScriptedConsumer, source: Source) -> None:
    source.read(10, 0)
    source.hold(source.assigned)
    source.rewind()
    assert offsets(source.read(10, 0)) == list(range(10))


def test_the_committed_position_never_passes_an_unhandled_record(client: ScriptedConsumer, source: Source) -> None:
    """Behind the last record there are marks of transactions, up to the end."""
    source.read(10, 0)
    assert source.settled({}) == {}
    assert source.settled({FIRST: 10}) == {FIRST: 10}
    client.ends = [(0, 13)]
    source.read(1, 0)
    assert source.settled({FIRST: 10}) == {FIRST: 13}
    assert source.settled({FIRST: 6}) == {FIRST: 6}, "four records are not handled"
    assert source.settled({}) == {}, "ten are not"
    source.committed({FIRST: 13})
    assert source.settled({}) == {}
    client.ends = [(0, 15)]
    source.read(1, 0)
    assert source.settled({}) == {FIRST: 15}, "an aborted transaction came after all was committed"
    assert source.settled({FIRST: 10}) == {FIRST: 15}, "the last record, as who keeps it tells it again"
    source.committed({FIRST: 15})
    client.next[0] = 15
    source.read(1, 0)
    client.ends = [(0, 17)]
    source.read(1, 0)
    assert source.settled({}) == {}, "a record was read that is not handled"
    source.rewind()
    assert source.settled({}) == {}, "the end has to be seen anew"
    assert offsets(source.read(1, 0)) == [15]


def test_a_partition_of_marks_alone_is_done_with(client: ScriptedConsumer, source: Source) -> None:
    client.reset = [1]
    source.read(1, 0)
    client.ends = [(1, 7)]
    source.read(1, 0)
    assert SECOND not in source.settled({})
    client.ends = [(1, 9)]
    source.read(1, 0)
    assert source.settled({})[SECOND] == 9
    client.rebalance("on_revoke", 1)
    assert source.settled({}) == {}


def test_a_commit_in_the_middle_of_a_read_takes_back_nothing(client: ScriptedConsumer, source: Source) -> None:
    first = source.read(10, 0)

    def commit(_: frozenset[Partition]) -> None:
        source.committed({FIRST: offsets(first)[-1] + 1})
        source.rewind()

    source.listen(commit, lambda _: None)
    client.during = lambda: client.rebalance("on_revoke", 1)
    second = source.read(10, 0)
    assert offsets(second) in ([], [10])
    assert offsets([*second, *source.read(10, 0)])[:5] == list(range(10, 15))


def test_a_partition_begins_at_a_number(client: ScriptedConsumer, source: Source) -> None:
    """librdkafka applies a lookup of the beginning that is still on its way to a later assignment."""
    client.reset = [1]
    assert source.read(1, 0) == []
    assert client.begun == [(1, 7)]


def test_an_offset_that_a_new_leader_does_not_know_yet_is_not_gone(client: ScriptedConsumer, source: Source) -> None:
    """Right after it has taken over it answers that the place is out of its range."""
    client.reset, client.known, client.end = [1], 26, 25
    assert source.read(1, 0) == []
    assert client.begun == []
    client.end = 26
    source.read(1, 0)
    assert client.begun == [(1, 26)]


def test_an_offset_that_is_gone_is_an_error(
    client: ScriptedConsumer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.reset, client.known = [1], 3
    monkeypatch.setattr(gaps, "find", lambda *_: [gaps.Gap(1, 3, 7, 9, anew=False)])
    with pytest.raises(BrokerError, match=r"offset 3 of partition 1 .*--from 1:7"):
        source.read(1, 0)


@pytest.mark.parametrize("refusal", [KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_PARTITION])
def test_a_partition_of_which_nothing_is_known_yet_keeps_no_other_from_beginning(
    client: ScriptedConsumer, source: Source, refusal: int
) -> None:
    client.reset, client.leaderless, client.refusal = [0, 1], {1}, refusal
    assert source.read(1, 0) == []
    assert client.begun == [(0, 0)]
    assert offsets(source.read(10, 0)) == list(range(10))
    assert client.begun == [(0, 0)]
    client.leaderless = set()
    source.read(10, 0)
    assert client.begun == [(0, 0), (1, 7)]
    client.leaderless, client.reset = {1}, [1]
    source.read(10, 0)
    client.rebalance("on_revoke", 1)
    client.leaderless = set()
    source.read(10, 0)
    assert client.begun == [(0, 0), (1, 7)], "it is not ours any more"


@pytest.mark.parametrize("lost", [False, True])
def test_partitions_that_go_and_come_back_within_a_read(client: ScriptedConsumer, source: Source, lost: bool) -> None:
    source.read(10, 0)

    def go_and_come() -> None:
        client.rebalance("on_lost" if lost else "on_revoke", 0)
        client.rebalance("on_assign", 0)
        client.next[0] = 4  # what the group has committed

    client.during = go_and_come
    assert source.read(10, 0) == []
    assert offsets(source.read(10, 0)) == list(range(4, 14))


@pytest.mark.parametrize("end", [Commit.DONE, Commit.UNDONE])
def test_a_rebalance_while_a_commit_is_pending(
    client: ScriptedConsumer,
    source: Source,
    home: Home,
    end: Commit,
) -> None:
    """Every image of the partition that stays is answered once, whatever has become of the commit."""
    script = iter([Commit.PENDING] * 3 + [end] + [Commit.DONE] * 10)
    sink = ScriptedSink(source, script)
    manifest = load(home.registry, 1).manifest
    model = Model(manifest, lambda pixels: torch.full((len(pixels), 10), 0.1))
    kafka = KafkaSettings(timeout_s=0.01)
    with InferencePipeline(source, sink, Topics.of("t"), kafka, ServeSettings(), model) as answers:
        answers.submit(source.read(10, 0))
        answers.send(wait=True)
        assert answers.commit() is Commit.PENDING
        client.during = lambda: client.rebalance("on_revoke", 1)
        records = source.read(10, 0)
        if records:
            answers.submit(records)
        told = 0
        for _ in range(20):
            if not sink.busy and answers.idle and told < 60:
                answers.submit(source.read(10, 0))
            answers.send(wait=True)
            if sink.due() or sink.busy:
                try:
                    answers.commit()
                except StopIteration:
                    break
            told += sum(len(event.ids) for event in answers.committed())
    done = offsets(sink.committed)
    assert done == list(range(len(done)))
    assert len(done) >= 60
    assert told == len(done)
    assert np.all(np.diff(done) == 1)


def test_letters_follow_the_order_of_their_messages(client: ScriptedConsumer, source: Source, home: Home) -> None:
    """Whether a message cannot be read, or its answer not be sent."""
    sink = ScriptedSink(source, iter(()))
    sink.largest = 600
    model = Model(load(home.registry, 1).manifest, lambda pixels: torch.full((len(pixels), 10), 0.1))
    records = source.read(6, 0)
    for number in (1, 4):
        records[number] = records[number]._replace(value=b"?")
    for number in (2, 5):
        records[number] = records[number]._replace(key=b"k" * 700)
    with InferencePipeline(source, sink, Topics.of("t"), KafkaSettings(), ServeSettings(), model) as answers:
        answers.submit(records)
        answers.send(wait=True)
    assert [letter.record.offset for letter in sink.letters] == [1, 2, 4, 5]
    assert {letter.error for letter in sink.letters} >= {"AnswerTooLarge"}
