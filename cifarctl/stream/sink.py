"""Results out and offsets committed, together: exactly once in a transaction, or at least once one after the other."""

from __future__ import annotations

import enum
import secrets
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Protocol, TypeAlias

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, limited
from cifarctl.stream.records import Partition, Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import OVERTAKEN, OVERTIME_S, Source

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

#: Messages on their way beyond which nothing more should be read.
PENDING_HIGH = 20_000
LINGER_MS = 1  # what waits longer comes in larger batches, and later
CLOSE_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 30.0  # a broker that has never had a transaction makes a topic for them first
#: A message that fails so will fail again; anything else is worth another try.
HOPELESS = (
    connection.FORBIDDEN
    | connection.UNAUTHENTICATED
    | {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
#: Somebody has taken the transactional id, or the broker has given up the transaction and its producer with it.
FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,  # librdkafka does not find its way back from it
    KafkaError._FATAL,
}


class Commit(enum.Enum):
    """What came of an attempt to commit."""

    DONE = enum.auto()
    #: The broker does not answer in time: send nothing more, call `commit` again.
    PENDING = enum.auto()
    #: Nothing of what was sent since the last commit counts, and its records will be read again.
    UNDONE = enum.auto()


class Sink(Protocol):
    """Where results go. Everything sent and tracked since the last commit stands or falls with the next one."""

    delivery: str
    commits: int
    undone: int

    @property
    def pending(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a commit is under way, so that nothing may be sent."""
        ...

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue one result; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        ...

    def track(self, records: Iterable[Record]) -> None:
        """Remember `records` as handled: everything that came of them has been passed to `send`."""
        ...

    def due(self) -> bool:
        """Whether it is time to commit, by `kafka.commit_interval_ms` and `kafka.commit_messages`."""
        ...

    def commit(self, timeout_s: float | None = None) -> Commit:
        """Commit what was sent and tracked, trying for `timeout_s` seconds (default: `kafka.timeout_s`).

        Raises:
            BrokerError: the broker refuses for good; no offset has moved.
        """
        ...

    def undo(self) -> None:
        """Give up what was sent since the last commit; the next `commit` tells when that is done."""
        ...

    def close(self) -> None:
        """Give up what is not committed, so that nobody has to wait for it."""
        ...


def open_sink(settings: KafkaSettings, source: Source) -> Sink:
    """The sink that `kafka.delivery` asks for; auto is exactly-once, but for the embedded broker.

    Raises:
        BrokerError: no broker answers, it refuses, or exactly-once is asked of the embedded one.
        SettingsError: librdkafka refuses an option.
    """
    embedded = clients.check(settings).embedded
    if settings.delivery == "exactly-once" and embedded:
        raise BrokerError(
            "kafka.delivery = exactly-once: the embedded broker has no transactions that hold; use Apache Kafka, or "
            "kafka.delivery = auto"
        )
    if settings.delivery == "at-least-once" or embedded:
        return AtLeastOnceSink(settings, source)
    return ExactlyOnceSink(settings, source)


class _Tracking:
    """What both sinks know of the records that are handled but not committed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.commits = self.undone = 0
        self._positions: dict[Partition, int] = {}
        self._handled = 0
        self._committed_at = time.monotonic()

    def track(self, records: Iterable[Record]) -> None:
        """See Sink."""
        for record in records:
            self._positions[(record.topic, record.partition)] = record.offset + 1
            self._handled += 1

    def due(self) -> bool:
        """See Sink."""
        if not self._positions:
            return False
        elapsed_ms = (time.monotonic() - self._committed_at) * 1000
        return elapsed_ms >= self._settings.commit_interval_ms or self._handled >= self._settings.commit_messages

    def _settle(self) -> None:
        self._positions.clear()
        self._handled = 0
        self._committed_at = time.monotonic()


class AtLeastOnceSink(_Tracking):
    """Waits for the acknowledgements, then commits the offsets."""

    delivery = "at-least-once"

    def __init__(self, settings: KafkaSettings, source: Source) -> None:
        """Open a producer.

        Raises:
            BrokerError: no broker answers.
            SettingsError: librdkafka refuses an option.
        """
        super().__init__(settings)
        self._source = source
        # Never given up: offsets move only after the acknowledgement, so what waits is not lost.
        self._sender = Sender(settings, options={"message.timeout.ms": 0, "linger.ms": LINGER_MS})

    @property
    def pending(self) -> int:
        """See Sink."""
        return self._sender.pending

    @property
    def busy(self) -> bool:
        """Always False: a commit that is under way hinders nobody."""
        return False

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """See Sink."""
        self._sender.send(topic, key, value, headers)

    def commit(self, timeout_s: float | None = None) -> Commit:
        """See Sink; never undone."""
        limit = self._settings.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        if not self._positions:
            return Commit.DONE
        acknowledged = self._sender.flush(limit)
        self._sender.raise_failed()
        self._committed_at = time.monotonic()
        if not acknowledged or not self._source.commit(self._positions, max(0.0, deadline - time.monotonic())):
            return Commit.PENDING
        self.commits += 1
        self._settle()
        return Commit.DONE

    def undo(self) -> None:
        """See Sink; what was sent stays sent, and will be sent again."""
        self._settle()
        self.undone += 1

    def close(self) -> None:
        """See Sink."""


class _State(enum.Enum):
    CLOSED = enum.auto()  # no usable producer
    RESOLVING = enum.auto()  # a new producer; what has become of the transaction of the old one is not known
    IDLE = enum.auto()  # no transaction
    OPEN = enum.auto()
    OFFSETS = enum.auto()  # offsets are being added: nothing more may be sent
    COMMITTING = enum.auto()
    ABORTING = enum.auto()


ABORTABLE = (_State.OPEN, _State.OFFSETS, _State.COMMITTING)


class ExactlyOnceSink(_Tracking):
    """Predictions, dead letters and input offsets in one Kafka transaction (KIP-98, KIP-447).

    Offsets are added under the group's metadata, so that the broker refuses those of a member that the group has
    dropped meanwhile, a process that was suspended for example. Whatever fails in a way that can be undone aborts the
    transaction. Where the producer is of no use any more, after a fatal error or a call that does not return in its
    time (librdkafka may wait for a lost coordinator long after that is back), a new one under the same transactional
    id takes its place: the broker then ends what the old one has left, and the group's offsets tell which way.
    """

    delivery = "exactly-once"

    def __init__(self, settings: KafkaSettings, source: Source, transactional_id: str | None = None) -> None:
        """Open a producer under `transactional_id`; default: `kafka.group_instance_id`, else a random one.

        Raises:
            BrokerError: no broker answers, or it refuses.
            SettingsError: librdkafka refuses an option.
        """
        super().__init__(settings)
        self._source = source
        self.transactional_id = (
            transactional_id or f"{source.group_id}.{settings.group_instance_id or secrets.token_hex(8)}"
        )
        self._sender: Sender | None = None
        self._state = _State.CLOSED
        #: Once the transaction's commit is asked for: its partitions, and since when each has been ours.
        self._issued: dict[Partition, int | None] = {}
        if self._advance(OPEN_TIMEOUT_S) is Commit.PENDING:
            raise BrokerError(
                f"{settings.bootstrap_servers} opens no transaction within {OPEN_TIMEOUT_S:g} s: `cifarctl doctor` "
                "looks for the cause; kafka.delivery = at-least-once does without"
            )
        self.undone = 0

    @property
    def pending(self) -> int:
        """See Sink."""
        return self._sender.pending if self._sender is not None else 0

    @property
    def busy(self) -> bool:
        """See Sink."""
        return self._state not in (_State.IDLE, _State.OPEN)

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """See Sink. Where the transaction has failed nothing is sent any more: `commit` will undo it."""
        if self.busy:
            return
        assert self._sender is not None
        try:
            self._begin()
            self._sender.enqueue(topic, key, value, headers)
        except KafkaException as error:
            self._fail(error.args[0], retry=False)

    def commit(self, timeout_s: float | None = None) -> Commit:
        """See Sink."""
        if not self.busy:
            if not self._positions and self._state is _State.IDLE:
                return Commit.DONE
            try:
                self._begin()
                self._state = _State.OFFSETS if self._positions else _State.ABORTING
            except KafkaException as error:
                self._fail(error.args[0], retry=False)
        return self._advance(self._settings.timeout_s if timeout_s is None else timeout_s)

    def undo(self) -> None:
        """See Sink; what is being committed already may still be."""
        if self._state in (_State.OPEN, _State.OFFSETS):
            self._state = _State.ABORTING

    def close(self) -> None:
        """See Sink; an open transaction would keep readers of committed messages waiting until it times out."""
        self.undo()
        if self._state is _State.ABORTING:
            with suppress(BrokerError):
                self._advance(CLOSE_TIMEOUT_S)

    def _begin(self) -> None:
        if self._state is _State.IDLE:
            assert self._sender is not None
            self._sender.producer.begin_transaction()
            self._state = _State.OPEN
            self._sender.failure = None

    def _advance(self, timeout_s: float) -> Commit:
        """Go on from state to state until the transaction is over, one way or the other, or the time is."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if (outcome := self._step(max(connection.RETRY_S, deadline - time.monotonic()))) is not None:
                    self._settle()
                    self._issued = {}
                    return outcome
            except KafkaException as error:
                self._fail(error.args[0], retry=True)
                if time.monotonic() >= deadline:
                    return Commit.PENDING
                time.sleep(connection.RETRY_S)
            except FutureTimeout:
                connection.logger.warning("transaction %s: no answer", self._state.name.lower())
                self._abandon()
                return Commit.PENDING

    def _step(self, left_s: float) -> Commit | None:
        """The next call that the state asks for; what has come of the transaction where that was the last one."""
        if self._sender is None:
            self._sender = Sender(
                self._settings, transactional_id=self.transactional_id, options={"linger.ms": LINGER_MS}
            )
        producer, source = self._sender.producer, self._source
        limit = left_s + OVERTIME_S
        if self._state is _State.CLOSED:
            limited.begin(producer.init_transactions, left_s).result(limit)
            self._state = _State.RESOLVING
        elif self._state is _State.RESOLVING:
            # A partition that has been ours all along is moved by nobody else, so its offset is the proof.
            held = {partition for partition, term in self._issued.items() if term and source.term(partition) == term}
            found = source.lookup(held, left_s)
            self._state = _State.IDLE
            whole = found and all(found[partition] == self._positions[partition] for partition in held)
            return self._done() if whole else self._undone()
        elif self._state is _State.OFFSETS:
            places = [TopicPartition(*partition, offset) for partition, offset in self._positions.items()]
            metadata = source.group_metadata()
            limited.begin(producer.send_offsets_to_transaction, places, metadata, left_s).result(limit)
            self._state = _State.COMMITTING
            self._issued = {partition: source.term(partition) for partition in self._positions}
        elif self._state is _State.COMMITTING:
            limited.begin(producer.commit_transaction, left_s).result(limit)
            self._state = _State.IDLE
            return self._done()
        else:
            limited.begin(producer.abort_transaction, left_s).result(limit)
            self._state = _State.IDLE
            return self._undone()
        return None

    def _done(self) -> Commit:
        self._source.committed(self._positions)
        self.commits += 1
        return Commit.DONE

    def _undone(self) -> Commit:
        self.undone += 1
        return Commit.UNDONE

    def _abandon(self) -> None:
        if self._sender is not None:
            limited.begin(_discard, self._sender)  # which may wait for the call that hangs
        self._sender, self._state = None, _State.CLOSED

    def _fail(self, error: KafkaError, *, retry: bool) -> None:
        """Choose the state that an error leaves; raises where no other attempt can do better."""
        assert self._sender is not None
        cause = self._sender.failure or error  # a failed delivery says more than the failed transaction
        for each in (cause, error):
            if each.code() in HOPELESS:
                raise connection.explain(self._settings, "cannot write predictions", each)
        connection.logger.warning("transaction %s: %s", self._state.name.lower(), error)
        if {cause.code(), error.code()} & FENCED or error.fatal():
            self._abandon()
        elif (error.txn_requires_abort() or error.code() in OVERTAKEN) and self._state in ABORTABLE:
            self._state = _State.ABORTING
        elif not (retry and (error.retriable() or error.code() in connection.TRANSIENT)):
            self._abandon()


def _discard(sender: Sender) -> None:
    """Let go of a producer that is of no use any more."""
    sender.producer.purge()
    del sender
