"""A broker that refuses, keeps silent or is slow, to a sender and the sinks: a scripted producer and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, letters
from cifarctl.stream.at_least_once import AtLeastOnceSink
from cifarctl.stream.exactly_once import ExactlyOnceSink
from cifarctl.stream.limits import Limits
from cifarctl.stream.producer_stall import PRODUCER_STALL_S, ProducerStall
from cifarctl.stream.records import DeadLetter, Partition, Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Commit

TOPIC = "cifar.predictions"
KAFKA = KafkaSettings(timeout_s=0.01, commit_messages=100)
RECORDS = [Record("cifar.images", 0, number, 0, b"%d" % number, b"", ()) for number in range(8)]


class Sent(NamedTuple):
    """A message in the queue of a client."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Any
    on_delivery: Any


class ScriptedProducer:
    """One client of a `ScriptedBroker`; what becomes of messages is told by flush alone, as a late report is."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker
        self.queue: list[Sent] = []
        self.room = self.pace = 1_000_000  # messages that are taken, and told of in one flush
        self.fatal = self.purged = False
        self.failed = False  # its transaction

    def __len__(self) -> int:
        return len(self.queue)

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None, *, headers: Any, on_delivery: Callable[..., None]
    ) -> None:
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if self.failed:
            raise KafkaException(KafkaError(KafkaError._STATE))
        if len(self.queue) >= self.room:
            raise BufferError
        self.queue.append(Sent(topic, key, value, headers, on_delivery))

    def poll(self, _timeout: float) -> int:
        return 0

    def flush(self, _timeout: float) -> int:
        if self.fatal and not self.purged:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if self.purged:  # what was about to be sent is told of last
            self.queue = self.queue[1:] + self.queue[:1]
        told, self.queue = self.queue[: self.pace], self.queue[self.pace :]
        if self._broker.silent(self) and not self.purged:
            told, self.queue = [], told + self.queue
        for sent in told:
            self._report(sent, KafkaError(KafkaError._PURGE_QUEUE) if self.purged else self._broker.refuse(sent))
        return len(self.queue)

    def purge(self) -> None:
        self.purged = True

    def list_topics(self, topic: str | None = None, *, timeout: float) -> Any:
        assert timeout > 0
        if self._broker.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return self._broker.metadata

    def init_transactions(self, _timeout: float) -> None: ...

    def begin_transaction(self) -> None: ...

    def send_offsets_to_transaction(self, *_: Any) -> None: ...

    def commit_transaction(self, _timeout: float) -> None:
        if (error := self._broker.uncommitted) is not None:
            raise KafkaException(error)

    def abort_transaction(self, _timeout: float) -> None: ...

    def _report(self, sent: Sent, error: KafkaError | None) -> None:
        if error is None:
            self._broker.arrived.append((sent.key, sent.value))
        message = SimpleNamespace(topic=lambda: sent.topic, key=lambda: sent.key, value=lambda: sent.value)
        sent.on_delivery(error, message)


class ScriptedBroker:
    """Takes what it is not told to refuse."""

    def __init__(self) -> None:
        self.clients: list[ScriptedProducer] = []
        self.arrived: list[tuple[bytes | None, bytes | None]] = []
        self.refuse: Callable[[Sent], KafkaError | None] = lambda _: None
        self.silent: Callable[[ScriptedProducer], bool] = lambda _: False
        self.uncommitted: KafkaError | None = None  # why no transaction is committed
        self.away = False
        leader = SimpleNamespace(leader=1, error=None)
        self.leader = leader
        there = {name: SimpleNamespace(partitions={0: leader}, error=None) for name in (TOPIC, "cifar.dead-letters")}
        self.metadata = SimpleNamespace(topics=there, cluster_id="scripted")

    def open(self, *_: Any, **__: Any) -> ScriptedProducer:
        self.clients.append(ScriptedProducer(self))
        return self.clients[-1]


class ScriptedSource:
    """A place where offsets are committed."""

    group_id = "cifar"

    def __init__(self) -> None:
        self.taken = True  # whether a commit is answered
        self.excused = 0
        self.offsets: Mapping[Partition, int] = {}

    def settled(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        return dict(positions)

    def marked(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, int]:
        return offsets

    def term(self, _partition: Partition) -> int:
        return 1

    def group_metadata(self) -> None: ...

    def lookup(self, *_: Any) -> dict[Partition, int]:
        return {}

    def commit(self, offsets: Mapping[Partition, int], _timeout_s: float) -> bool:
        if self.taken:
            self.offsets = offsets
        return self.taken

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        self.offsets = offsets

    def restart_stall_timer(self) -> None:
        self.excused += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> ScriptedBroker:
    scripted = ScriptedBroker()
    monkeypatch.setattr(clients, "producer", scripted.open)
    monkeypatch.setattr(clients, "check", lambda _: clients.Broker("scripted"))
    monkeypatch.setattr("cifarctl.stream.limits._described", lambda *_: {})
    return scripted


def too_large(limit: int) -> Callable[[Sent], KafkaError | None]:
    """Refuses what has more bytes than `limit`."""
    return lambda sent: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if len(sent.value or b"") > limit else None


def answer(sink: Any, records: Sequence[Record]) -> None:
    for record in records:
        sink.send(TOPIC, record.key, b"answer")
    sink.track(records)


def test_nothing_is_sent_behind_a_commit_that_is_pending(broker: ScriptedBroker) -> None:
    """Else a broker that is slower than the input would never have acknowledged all of it."""
    source = ScriptedSource()
    sink = AtLeastOnceSink(KAFKA, source)  # type: ignore[arg-type]
    answer(sink, RECORDS)
    broker.silent = lambda _: True
    assert sink.commit(0.01) is Commit.PENDING
    assert sink.busy
    broker.silent, source.taken = lambda _: False, False
    assert sink.commit(0.01) is Commit.PENDING
    assert sink.busy
    source.taken = True
    assert sink.commit(0.01) is Commit.DONE
    assert not sink.busy
    assert source.offsets == {("cifar.images", 0): 8}
    answer(sink, RECORDS)
    broker.silent = lambda _: True
    sink.commit(0.01)
    sink.undo()
    assert not sink.busy


def test_topics_that_were_not_there_before_a_commit_are_not_missed_at_the_next_restart(broker: ScriptedBroker) -> None:
    """A broker that has just come back knows no topics for a moment, each time."""
    sink = AtLeastOnceSink(KAFKA, ScriptedSource())  # type: ignore[arg-type]
    there, absent = broker.metadata, SimpleNamespace(topics={})
    for _ in range(2):
        answer(sink, RECORDS)
        broker.silent, broker.metadata = lambda _: True, absent
        assert sink.commit(0.01) is Commit.PENDING  # later than kafka.timeout_s after the first one
        broker.silent, broker.metadata = lambda _: False, there
        assert sink.commit(0.01) is Commit.DONE
    answer(sink, RECORDS)
    broker.silent, broker.metadata = lambda _: True, absent
    sink.commit(0.02)
    with pytest.raises(BrokerError, match=r"cifar\.predictions"):
        sink.commit(0.02)


def test_a_smaller_transaction_after_an_abort_is_not_a_stall(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ScriptedSource()
    sink = ExactlyOnceSink(KAFKA, source)  # type: ignore[arg-type]
    for seconds, excused in ((0.0, 0), (6.0, 1), (6.0, 2)):
        answer(sink, RECORDS)
        monkeypatch.setattr(sink, "_began_at", sink._began_at - seconds)
        sink.undo()
        assert sink.commit(1) is Commit.UNDONE
        assert source.excused == excused
    assert sink.commit_size == 2


def test_a_refusal_that_is_told_late_is_told_in_time(broker: ScriptedBroker) -> None:
    broker.refuse = too_large(1000)
    sender = Sender(KAFKA, transactional_id="own")
    sender.send(TOPIC, None, bytes(2000))
    assert sender.cause(KafkaError(KafkaError._STATE)).code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert sender.narrow()


def test_a_batch_refused_while_more_is_being_sent_is_split(broker: ScriptedBroker) -> None:
    """The client then says only that it is in the wrong state, until it is asked for its delivery reports."""
    sink = ExactlyOnceSink(KAFKA, ScriptedSource())  # type: ignore[arg-type]
    answer(sink, RECORDS[:4])
    broker.refuse = lambda _: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    broker.clients[0].failed = True
    answer(sink, RECORDS[4:])
    assert sink.commit(1) is Commit.UNDONE
    assert sink._limits.of(TOPIC) < Limits().of(TOPIC)


def test_nothing_overtakes_resent_messages(broker: ScriptedBroker) -> None:
    broker.refuse = too_large(1000)
    sender = Sender(KAFKA)
    assert sender.enqueue_many(TOPIC, [(b"%d" % number, bytes(900 + number % 2 * 200), []) for number in range(4)]) == 4
    broker.clients[0].flush(0)
    broker.clients[0].room = 5
    broker.clients[0].produce(TOPIC, b"late", b"late", headers=[], on_delivery=lambda *_: None)
    broker.silent = lambda _: True
    assert sender.enqueue_many(TOPIC, [(b"new", b"", [])]) == 0
    broker.silent, broker.refuse = lambda _: False, lambda _: None
    assert sender.enqueue_many(TOPIC, [(b"new", b"", [])]) == 1
    assert sender.flush(1)
    assert [key for key, _ in broker.arrived] == [b"0", b"2", b"late", b"1", b"3", b"new"]


def compacted(sent: Sent) -> KafkaError | None:
    """Refuses what has no key."""
    return KafkaError(KafkaError.INVALID_RECORD) if sent.key is None else None


def letter_of(key: bytes | None, offset: int) -> DeadLetter:
    return DeadLetter(Record("cifar.images", 2, offset, 0, key, b"?", ()), "decode", "NotJson", "")


@pytest.mark.parametrize("transactional", [False, True])
def test_a_letter_without_a_key_gets_one_once_its_topic_has_refused_it(
    broker: ScriptedBroker, transactional: bool
) -> None:
    """By the sender itself, or by the next one, in a transaction that replaces the failed one."""
    broker.refuse = compacted
    limits = Limits()
    for _ in range(1 + transactional):
        sender = Sender(KAFKA, transactional_id="own" if transactional else None, limits=limits)
        for offset, key in enumerate((b"k", None, None)):
            sender.send_letter(TOPIC, letter_of(key, offset))
        assert sender.flush(1)
        if transactional and not limits.keyed(TOPIC):
            assert sender.narrow()
            broker.arrived.clear()
    sender.raise_failed()
    assert [key for key, _ in broker.arrived] == [b"k", b"cifar.images:2:1", b"cifar.images:2:2"]


def test_an_invalid_keyed_message_fails_and_its_neighbours_do_not(broker: ScriptedBroker) -> None:
    seen: list[bytes | None] = []

    def refuse(sent: Sent) -> KafkaError | None:
        seen.append(sent.key)
        if sent.key == b"bad":
            return KafkaError(KafkaError.INVALID_RECORD)
        return KafkaError(KafkaError._INVALID_DIFFERENT_RECORD) if seen.count(sent.key) == 1 else None

    broker.refuse = refuse
    sender = Sender(KAFKA)
    for key in (b"1", b"bad", b"2"):
        sender.send_letter(TOPIC, letter_of(key, 0))
    assert sender.flush(1)
    assert [key for key, _ in broker.arrived] == [b"1", b"2"]
    assert sender.failed == 1
    with pytest.raises(BrokerError, match=r"cifar\.predictions .*only messages with a key"):
        sender.raise_failed()


def test_a_keyed_receipt_is_not_a_tombstone(broker: ScriptedBroker) -> None:
    for keyed in (False, True):
        key, value, headers = letters.receipt_message(3, 17, keyed=keyed)
        assert letters.receipt_for(Record("dead", 0, 0, 0, key, value, tuple(headers))) == (3, 17)
        assert (key, value) == ((b"replayed:3:17", b"") if keyed else (None, None))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(broker: ScriptedBroker) -> list[bytes | None]:
    return [key for key, _ in broker.arrived]


def test_a_client_that_stands_still_hands_over_to_a_new_one(broker: ScriptedBroker) -> None:
    """Only where the broker answers and has leaders for the whole time: what is away, or slow, is waited for."""
    sender, clock = Sender(KAFKA), Clock()
    standstill = ProducerStall(sender, TOPIC, clock)
    broker.silent = lambda client: client is broker.clients[0]
    assert sender.enqueue_many(TOPIC, [(b"%d" % number, b"", []) for number in range(3)]) == 3

    def wait(seconds: float) -> list[int]:
        moved = []
        for _ in range(round(seconds)):
            clock.now += 1
            moved.append(standstill.look())
        return [count for count in moved if count]

    broker.away = True
    assert wait(3 * PRODUCER_STALL_S) == []
    broker.away, broker.leader.leader = False, -1
    assert wait(3 * PRODUCER_STALL_S) == []
    broker.leader.leader = 1
    assert wait(PRODUCER_STALL_S - 10) == []
    broker.clients[0].pace, broker.silent = 1, lambda _: False
    assert not sender.flush(0), "one is acknowledged"
    broker.silent = lambda client: client is broker.clients[0]
    assert wait(PRODUCER_STALL_S - 10) == []
    assert (sender.sent, sender.pending) == (3, 2)
    broker.away = True
    assert wait(3 * PRODUCER_STALL_S) == []
    broker.away = False
    assert wait(20) == [2], "one that dies again and again keeps nobody from noticing"
    assert sender.flush(1)
    assert keys(broker) == [b"0", b"1", b"2"]
    assert (sender.sent, sender.pending, sender.failed, sender.unsent, sender.unconfirmed) == (3, 0, 0, 0, 0)
    assert wait(3 * PRODUCER_STALL_S) == []


@pytest.mark.parametrize("told", ["a message", "produce", "the client"])
def test_a_broken_client_hands_over_to_a_new_one(broker: ScriptedBroker, told: str) -> None:
    sender = Sender(KAFKA)
    sender.send(TOPIC, b"0", b"")
    if told == "a message":
        broker.refuse = lambda _: (
            KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER) if len(broker.clients) == 1 else None
        )
    else:
        broker.clients[0].fatal = True
        broker.silent = lambda client: client is broker.clients[0]
        if told == "the client":
            sender._note(KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "", fatal=True))
        else:
            assert sender.enqueue_many(TOPIC, [(b"1", b"", [])]) == 0
    sender.send(TOPIC, b"1", b"") if told != "a message" else sender.flush(1)
    assert sender.flush(1)
    assert sorted(keys(broker)) == ([b"0"] if told == "a message" else [b"0", b"1"])
    sender.raise_failed()
    assert len(broker.clients) == 2


def test_all_that_is_given_up_is_counted_however_slowly_it_is_told(broker: ScriptedBroker) -> None:
    sender = Sender(KAFKA)
    sender.enqueue_many(TOPIC, [(b"", b"", [])] * 100)
    broker.silent, broker.clients[0].pace = lambda _: True, 1
    sender.give_up()
    assert (sender.unsent, sender.unconfirmed, sender.pending) == (100, 0, 0)


def test_a_client_that_has_failed_for_good_is_replaced(broker: ScriptedBroker) -> None:
    """It raises at whatever it is asked, for its delivery reports too."""
    sink = ExactlyOnceSink(KAFKA, ScriptedSource())  # type: ignore[arg-type]
    answer(sink, RECORDS)
    broker.clients[0].fatal = True
    broker.uncommitted = KafkaError(KafkaError._FENCED, "", fatal=True)
    outcome = sink.commit(0.01)
    broker.uncommitted = None
    while outcome is Commit.PENDING:
        outcome = sink.commit(1)
    assert outcome is Commit.UNDONE
    answer(sink, RECORDS)
    assert sink.commit(1) is Commit.DONE
    assert len(broker.clients) == 2


def test_a_transaction_whose_messages_time_out_is_the_last_of_its_client(broker: ScriptedBroker) -> None:
    source = ScriptedSource()
    sink = ExactlyOnceSink(KAFKA, source)  # type: ignore[arg-type]
    answer(sink, RECORDS)
    broker.refuse = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT)
    broker.clients[0].flush(0)
    broker.uncommitted = KafkaError(KafkaError._TIMED_OUT, "", txn_requires_abort=True)
    outcome = sink.commit(0.01)
    broker.uncommitted = None
    while outcome is Commit.PENDING:
        outcome = sink.commit(1)
    assert outcome is Commit.UNDONE
    assert len(broker.clients) == 2
    answer(sink, RECORDS)
    assert sink.commit(1) is Commit.DONE
