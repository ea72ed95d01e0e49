"""Results out and offsets committed together, in one Kafka transaction: each input is answered exactly once."""

from __future__ import annotations

import enum
import secrets
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import background, connection, letters, rights
from cifarctl.stream.background import OVERTIME_S
from cifarctl.stream.group_offsets import REBALANCED
from cifarctl.stream.records import DeadLetter, Partition
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Commit, Headers
from cifarctl.stream.source import Source
from cifarctl.stream.tracking import LINGER_MS, TrackingSink
from cifarctl.stream.transactions import CLOSE_TIMEOUT_S, FENCED, OPEN_TIMEOUT_S, PERMANENT
from cifarctl.stream.undelivered import REFUSED

#: When even one input is too slow for a transaction, a dead letter of this size or more is sent as a digest.
SLOW_LETTER_BYTES = 16_384


class _State(enum.Enum):
    CLOSED = enum.auto()  # no usable producer
    RESOLVING = enum.auto()  # a new producer; the outcome of the old one's transaction is unknown
    IDLE = enum.auto()  # no transaction
    OPEN = enum.auto()
    OFFSETS = enum.auto()  # the offsets are being added: nothing more may be sent
    COMMITTING = enum.auto()
    ABORTING = enum.auto()


ABORTABLE = (_State.OPEN, _State.OFFSETS, _State.COMMITTING)


class ExactlyOnceSink(TrackingSink):
    """Predictions, dead letters and input offsets in one Kafka transaction (KIP-98, KIP-447).

    Offsets are added with the group's metadata, so that the broker refuses them from a member that the group has
    dropped meanwhile, for example a process that was suspended. After an error that allows it, the transaction is
    aborted. A producer that has become unusable, after a fatal error or a call that does not return in time
    (librdkafka may wait for a lost coordinator long after it is back), is replaced by a new one with the same
    transactional id. The broker then ends the old transaction, and the group's offsets show whether it was committed.
    """

    delivery = "exactly-once"

    def __init__(self, settings: KafkaSettings, source: Source, transactional_id: str | None = None) -> None:
        """Open a producer under `transactional_id`; default: `kafka.group_instance_id`, else a random one.

        Raises:
            BrokerError: no broker answers, or it refuses.
            SettingsError: librdkafka refuses an option.
        """
        super().__init__(settings, source)
        self.transactional_id = (
            transactional_id or f"{source.group_id}.{settings.group_instance_id or secrets.token_hex(8)}"
        )
        self._sender: Sender | None = None
        self._state = _State.CLOSED
        self._offsets: dict[Partition, int] = {}  # of the transaction, from its commit on
        self._began_at = self._asked_at = time.monotonic()  # when the transaction and its commit began
        #: The transaction's partitions and the term of each, once the offsets are added.
        self._terms: dict[Partition, int | None] = {}
        if self._advance(OPEN_TIMEOUT_S) is Commit.PENDING:
            raise BrokerError(
                f"{settings.bootstrap_servers} has opened no transaction within {OPEN_TIMEOUT_S:g} s: run "
                "`cifarctl doctor` to find the cause, or set kafka.delivery = at-least-once, which needs none"
            )
        self.undone = 0

    @property
    @override
    def pending(self) -> int:
        return self._sender.pending if self._sender is not None else 0

    @property
    @override
    def busy(self) -> bool:
        return self._state not in (_State.IDLE, _State.OPEN)

    @override
    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Sends nothing once the transaction has failed: `commit` will undo it."""
        self._enqueue(lambda sender: sender.enqueue(topic, key, value, headers))

    @override
    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        """Sends nothing once the transaction has failed."""
        limit = letters.MAX_LETTER_BYTES if self.commit_size > 1 else SLOW_LETTER_BYTES
        self._enqueue(lambda sender: sender.enqueue_letter(topic, letter, limit))

    @override
    def commit(self, timeout_s: float | None = None) -> Commit:
        if not self.busy:
            self._asked_at = time.monotonic()
            self._offsets = self._source.settled(self._positions)
            if not self._offsets and self._state is _State.IDLE:
                return Commit.DONE
            try:
                self._begin()
                self._state = _State.OFFSETS if self._offsets else _State.ABORTING
            except KafkaException as error:
                self._fail(error.args[0], retry=False)
        return self._advance(self._settings.timeout_s if timeout_s is None else timeout_s)

    @override
    def undo(self) -> None:
        """A commit that is already in progress may still succeed."""
        if self._state in (_State.OPEN, _State.OFFSETS):
            self._state = _State.ABORTING

    @override
    def close(self) -> None:
        """Abort an open transaction: read_committed readers would wait until it times out."""
        self.undo()
        if self._state is _State.ABORTING:
            with suppress(BrokerError):
                self._advance(CLOSE_TIMEOUT_S)

    def _enqueue(self, put: Callable[[Sender], None]) -> None:
        if self.busy:
            return
        assert self._sender is not None
        try:
            self._begin()
            put(self._sender)
        except KafkaException as error:
            self._fail(error.args[0], retry=False)

    def _begin(self) -> None:
        if self._state is _State.IDLE:
            assert self._sender is not None
            self._sender.producer.begin_transaction()
            self._state = _State.OPEN
            self._began_at = time.monotonic()
            self._sender.clear_failure()

    def _advance(self, timeout_s: float) -> Commit:
        """Step from state to state until the transaction has ended, or the time is up."""
        deadline = time.monotonic() + timeout_s
        before = self.commit_size
        while True:
            try:
                if (outcome := self._step(max(connection.RETRY_S, deadline - time.monotonic()))) is not None:
                    if self.commit_size < before:  # which happens at most a dozen times in a row
                        self._source.restart_stall_timer()
                    self._settle()
                    self._terms = {}
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
        """Make the next call for the state; the outcome once the transaction has ended."""
        if self._sender is None:
            self._sender = Sender(
                self._settings,
                transactional_id=self.transactional_id,
                options={"linger.ms": LINGER_MS},
                limits=self._limits,
            )
        producer, source = self._sender.producer, self._source
        limit = left_s + OVERTIME_S
        if self._state is _State.CLOSED:
            background.start(producer.init_transactions, left_s).result(limit)
            self._state = _State.RESOLVING
        elif self._state is _State.RESOLVING:
            # Nobody else moves the offset of a partition that we have held all along, so that offset is the proof.
            held = {partition for partition, term in self._terms.items() if term and source.term(partition) == term}
            found = source.lookup(held, left_s)
            self._state = _State.IDLE
            committed = found and all(found[partition] == self._offsets[partition] for partition in held)
            return self._done() if committed else self._undone()
        elif self._state is _State.OFFSETS:
            marked = source.marked(self._offsets)
            metadata = source.group_metadata()
            background.start(producer.send_offsets_to_transaction, marked, metadata, left_s).result(limit)
            self._state = _State.COMMITTING
            self._terms = {partition: source.term(partition) for partition in self._offsets}
        elif self._state is _State.COMMITTING:
            background.start(producer.commit_transaction, left_s).result(limit)
            self._state = _State.IDLE
            return self._done()
        else:
            background.start(producer.abort_transaction, left_s).result(limit)
            self._state = _State.IDLE
            return self._undone()
        return None

    def _done(self) -> Commit:
        self._source.committed(self._offsets)
        self._count()
        self._size.committed(self._handled, time.monotonic() - self._asked_at)
        return Commit.DONE

    def _undone(self) -> Commit:
        self.undone += 1
        self._size.undone(self._handled, time.monotonic() - self._began_at)
        return Commit.UNDONE

    def _abandon(self) -> None:
        """Drop a producer that is unusable."""
        if self._sender is not None:
            background.start(_discard, self._sender)  # may wait for the call that hangs
        self._sender, self._state = None, _State.CLOSED

    def _fail(self, error: KafkaError, *, retry: bool) -> None:
        """Choose the next state after an error; raises if no other attempt can succeed."""
        assert self._sender is not None
        cause = self._sender.cause(error)
        codes = {cause.code(), error.code()}
        # After a batch was refused for its size, the client miscounts, and its batches stay as large.
        smaller = bool(codes & REFUSED) and self._sender.narrow()
        if not smaller:
            self._raise_permanent(cause, error)
            self._require_topics(self._sender)
        connection.logger.warning("transaction %s: %s", self._state.name.lower(), error)
        # A client whose messages timed out may have stalled for good (librdkafka issue 5430).
        if smaller or codes & FENCED or error.fatal() or cause.code() == KafkaError._MSG_TIMED_OUT:
            self._abandon()
        elif (error.txn_requires_abort() or error.code() in REBALANCED) and self._state in ABORTABLE:
            self._state = _State.ABORTING
        elif not (retry and (error.retriable() or error.code() in connection.TRANSIENT)):
            self._abandon()

    def _raise_permanent(self, cause: KafkaError, error: KafkaError) -> None:
        """Raise if no other attempt can succeed, with the topic even where the client does not name it."""
        assert self._sender is not None
        for each in (cause, error):
            if each.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                rights.require(self._settings, {topic: ["Write"] for topic in self._answers})
            if each.code() in PERMANENT:
                raise connection.explain(self._settings, "cannot write predictions", each, self._sender.failed_topic)


def _discard(sender: Sender) -> None:
    """Let go of an unusable producer."""
    sender.producer.purge()
    del sender
