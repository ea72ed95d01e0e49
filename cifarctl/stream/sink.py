"""Results out and offsets committed, together: exactly once in a transaction, or at least once one after the other."""

from __future__ import annotations

import enum
import math
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, letters, limited, options, rights
from cifarctl.stream.answering import Commit, Headers, Sink
from cifarctl.stream.clients import Topics
from cifarctl.stream.limits import of_topics
from cifarctl.stream.portion import Portion
from cifarctl.stream.records import DeadLetter, Partition, Record
from cifarctl.stream.sender import REFUSED, Sender
from cifarctl.stream.source import OVERTAKEN, OVERTIME_S, Source

#: Messages on their way beyond which nothing more should be read.
PENDING_HIGH = 20_000
LINGER_MS = 1  # what waits longer comes in larger batches, and later
CLOSE_TIMEOUT_S = 2.0
LOOK_S = 0.5  # for the topics that there are
OPEN_TIMEOUT_S = 30.0  # a broker that has never had a transaction makes a topic for them first
#: A dead letter that may be what is too much for the time of a transaction is a digest from this size on.
SLOW_LETTER_BYTES = 16_384
#: A message that fails so will fail again; anything else is worth another try.
HOPELESS = (
    connection.FORBIDDEN
    | connection.UNAUTHENTICATED
    | {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
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


def open_sink(settings: KafkaSettings, source: Source) -> Sink:
    """The sink that `kafka.delivery` asks for; auto is exactly-once, but for the embedded broker.

    Raises:
        BrokerError: no broker answers, it refuses, or exactly-once is asked of the embedded one.
        SettingsError: librdkafka refuses an option, or transactions would be given up before they are committed.
    """
    embedded = clients.check(settings).embedded
    if settings.delivery == "exactly-once" and embedded:
        raise BrokerError(
            "kafka.delivery = exactly-once: the embedded broker has no transactions that hold; use Apache Kafka, or "
            "kafka.delivery = auto"
        )
    if settings.delivery == "at-least-once" or embedded:
        return AtLeastOnceSink(settings, source)
    timeout_ms = options.transaction_timeout_s(settings) * 1000
    if settings.commit_interval_ms >= timeout_ms:
        raise SettingsError(
            f"kafka.commit_interval_ms = {settings.commit_interval_ms} must be less than "
            f"kafka.options.transaction.timeout.ms = {timeout_ms:g}: change one of them"
        )
    return ExactlyOnceSink(settings, source)


class _Tracking(Sink):
    """What both sinks know of the records that are handled but not committed."""

    def __init__(self, settings: KafkaSettings, source: Source) -> None:
        """Ask what the topics take.

        Raises:
            BrokerError: too little for any answer.
        """
        self._settings, self._source = settings, source
        names = Topics.of(settings.topic_prefix)
        answers = names.predictions, names.dead_letters
        self._limits = of_topics(settings, answers)
        self._limits.require(answers)
        self.commits = self.undone = 0
        self._timeout_s = options.transaction_timeout_s(settings)
        self._portion = Portion(self._timeout_s, settings.commit_messages)
        self._positions: dict[Partition, int] = {}
        self._handled = 0
        self._committed_at = time.monotonic()
        self._absent_since = math.inf  # when a topic of answers was first seen not to be there

    @override
    def limit(self, topic: str) -> int:
        return self._limits.of(topic)

    @override
    def track(self, records: Iterable[Record]) -> None:
        for record in records:
            self._positions[(record.topic, record.partition)] = record.offset + 1
            self._handled += 1

    @property
    @override
    def portion(self) -> int:
        return self._portion.limit

    @property
    @override
    def full(self) -> bool:
        return self._handled >= self._portion.limit

    @override
    def due(self) -> bool:
        if self.full or self._handled >= self._settings.commit_messages:
            return True
        elapsed_s = time.monotonic() - self._committed_at
        interval_s = min(self._settings.commit_interval_ms / 1000, self._timeout_s / 2)
        return elapsed_s >= interval_s and bool(self._source.settled(self._positions))

    @override
    def news(self) -> list[str]:
        return self._portion.news()

    def _require_topics(self, sender: Sender) -> None:
        """See, where answers do not get through, that their topics are there: the client waits for them in silence.

        Raises:
            BrokerError: one has not been there for `kafka.timeout_s`; before, the broker may have just come back.
        """
        names = Topics.of(self._settings.topic_prefix)
        try:
            there = sender.producer.list_topics(timeout=LOOK_S).topics
        except KafkaException:
            return
        absent = next((topic for topic in (names.predictions, names.dead_letters) if topic not in there), None)
        now = time.monotonic()
        if absent is None:
            self._absent_since = math.inf
        else:
            self._absent_since = min(self._absent_since, now)
            if now - self._absent_since >= self._settings.timeout_s:
                error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
                raise connection.explain(self._settings, "cannot write answers", error, absent)

    def _count(self) -> None:
        """Take note of a commit: answers get through."""
        self.commits += 1
        self._absent_since = math.inf

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
        super().__init__(settings, source)
        # Never given up: offsets move only after the acknowledgement, so what waits is not lost.
        patient = {"message.timeout.ms": 0, "linger.ms": LINGER_MS}
        self._sender = Sender(settings, options=patient, limits=self._limits)
        self._waiting = False  # for the acknowledgements or offsets of a commit

    @property
    @override
    def pending(self) -> int:
        return self._sender.pending

    @property
    @override
    def busy(self) -> bool:
        """What is sent after a commit that is pending would have to be waited for as well."""
        return self._waiting

    @override
    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        self._sender.send(topic, key, value, headers)

    @override
    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        self._sender.send_letter(topic, letter)

    @override
    def commit(self, timeout_s: float | None = None) -> Commit:
        """Never undone."""
        limit = self._settings.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        offsets = self._source.settled(self._positions)
        self._waiting = bool(offsets)
        if not offsets:
            return Commit.DONE
        acknowledged = self._sender.flush(limit)
        self._sender.raise_failed()
        self._committed_at = time.monotonic()
        if not acknowledged:
            self._require_topics(self._sender)
        if not acknowledged or not self._source.commit(offsets, max(0.0, deadline - time.monotonic())):
            return Commit.PENDING
        self._waiting = False
        self._count()
        self._settle()
        return Commit.DONE

    @override
    def undo(self) -> None:
        """What was sent stays sent, and will be sent again."""
        self._waiting = False
        self._settle()
        self.undone += 1

    @override
    def close(self) -> None:
        pass


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
        super().__init__(settings, source)
        self.transactional_id = (
            transactional_id or f"{source.group_id}.{settings.group_instance_id or secrets.token_hex(8)}"
        )
        self._sender: Sender | None = None
        self._state = _State.CLOSED
        self._offsets: dict[Partition, int] = {}  # those of the transaction, once they are added
        self._began_at = self._asked_at = time.monotonic()  # when the transaction and its commit began
        #: Once the transaction's commit is asked for: its partitions, and since when each has been ours.
        self._issued: dict[Partition, int | None] = {}
        if self._advance(OPEN_TIMEOUT_S) is Commit.PENDING:
            raise BrokerError(
                f"{settings.bootstrap_servers} opens no transaction within {OPEN_TIMEOUT_S:g} s: `cifarctl doctor` "
                "looks for the cause; kafka.delivery = at-least-once does without"
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
        """Where the transaction has failed nothing is sent any more: `commit` will undo it."""
        self._enqueue(lambda sender: sender.enqueue(topic, key, value, headers))

    @override
    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        """As `send`."""
        most = letters.MAX_LETTER_BYTES if self.portion > 1 else SLOW_LETTER_BYTES
        self._enqueue(lambda sender: sender.enqueue_letter(topic, letter, most))

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
        """What is being committed already may still be."""
        if self._state in (_State.OPEN, _State.OFFSETS):
            self._state = _State.ABORTING

    @override
    def close(self) -> None:
        """An open transaction would keep readers of committed messages waiting until it times out."""
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
            self._sender.failure = self._sender.failed_topic = None

    def _advance(self, timeout_s: float) -> Commit:
        """Go on from state to state until the transaction is over, one way or the other, or the time is."""
        deadline = time.monotonic() + timeout_s
        carried = self.portion
        while True:
            try:
                if (outcome := self._step(max(connection.RETRY_S, deadline - time.monotonic()))) is not None:
                    if self.portion < carried:  # which happens a dozen times in a row at most
                        self._source.excuse()
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
                self._settings,
                transactional_id=self.transactional_id,
                options={"linger.ms": LINGER_MS},
                limits=self._limits,
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
            whole = found and all(found[partition] == self._offsets[partition] for partition in held)
            return self._done() if whole else self._undone()
        elif self._state is _State.OFFSETS:
            places = source.marked(self._offsets)
            metadata = source.group_metadata()
            limited.begin(producer.send_offsets_to_transaction, places, metadata, left_s).result(limit)
            self._state = _State.COMMITTING
            self._issued = {partition: source.term(partition) for partition in self._offsets}
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
        self._source.committed(self._offsets)
        self._count()
        self._portion.committed(self._handled, time.monotonic() - self._asked_at)
        return Commit.DONE

    def _undone(self) -> Commit:
        self.undone += 1
        self._portion.undone(self._handled, time.monotonic() - self._began_at)
        return Commit.UNDONE

    def _abandon(self) -> None:
        if self._sender is not None:
            limited.begin(_discard, self._sender)  # which may wait for the call that hangs
        self._sender, self._state = None, _State.CLOSED

    def _fail(self, error: KafkaError, *, retry: bool) -> None:
        """Choose the state that an error leaves; raises where no other attempt can do better."""
        assert self._sender is not None
        cause = self._sender.cause(error)
        codes = {cause.code(), error.code()}
        # A client that has been refused a batch for its size miscounts from then on, and its batches stay as large.
        otherwise = bool(codes & REFUSED) and self._sender.narrow()
        if not otherwise:
            self._raise_hopeless(cause, error)
            self._require_topics(self._sender)
        connection.logger.warning("transaction %s: %s", self._state.name.lower(), error)
        # A client whose messages were not sent in the transaction's time may stand still, librdkafka's issue 5430.
        if otherwise or codes & FENCED or error.fatal() or cause.code() == KafkaError._MSG_TIMED_OUT:
            self._abandon()
        elif (error.txn_requires_abort() or error.code() in OVERTAKEN) and self._state in ABORTABLE:
            self._state = _State.ABORTING
        elif not (retry and (error.retriable() or error.code() in connection.TRANSIENT)):
            self._abandon()

    def _raise_hopeless(self, cause: KafkaError, error: KafkaError) -> None:
        """Raise where no other attempt can do better; says on which topic where the client does not."""
        assert self._sender is not None
        answers = Topics.of(self._settings.topic_prefix)
        for each in (cause, error):
            if each.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                rights.require(self._settings, {answers.predictions: ["Write"], answers.dead_letters: ["Write"]})
            if each.code() in HOPELESS:
                raise connection.explain(self._settings, "cannot write predictions", each, self._sender.failed_topic)


def _discard(sender: Sender) -> None:
    """Let go of a producer that is of no use any more."""
    sender.producer.purge()
    del sender
