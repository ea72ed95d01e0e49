"""Sending without losing anything in silence."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, letters
from cifarctl.stream.answering import Headers
from cifarctl.stream.limits import INVALID, TOO_LARGE, Limits
from cifarctl.stream.records import DeadLetter
from cifarctl.stream.sizes import wire_size

#: Python sees signals between such waits only, so none of them is long.
SLICE_S = 0.1
PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # given up on purpose, by an abort
PURGE_S = 10.0  # to hear of all that was purged: 10,922 images, on a machine that is busy
#: The numbering that makes a producer idempotent is lost: only a new client goes on, and the message may have arrived.
UNSURE = {
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError._FATAL,
}
FIRST_LOOK_S = 1.0
POLL_EVERY = 64  # messages between two looks at what the client has to tell
REFUSED = TOO_LARGE | INVALID  # by the broker, which may take it in another batch or form


class Form(Protocol):
    """Makes the message that a topic takes, of `limit` bytes at most and with a key where it must be `keyed`."""

    def __call__(self, limit: int, /, *, keyed: bool) -> letters.Message:
        """Key, value and headers."""
        ...


class _Refused(NamedTuple):
    """A message that was not acknowledged, and how to make it in another form where there is one.

    `number` counts the messages in the order in which they were sent at first: reports come in another one.
    """

    number: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    form: Form | None
    error: KafkaError

    @property
    def size(self) -> int:
        return wire_size(self.key, self.value, self.headers)

    @property
    def keyless(self) -> bool:
        """Whether it is taken as invalid since it has no key, and can have one."""
        return self.error.code() == KafkaError.INVALID_RECORD and self.key is None and self.form is not None


class Sender:
    """A producer that waits when its queue is full and remembers what was not delivered.

    Idempotent where the broker can do that: a retry neither doubles nor overtakes a message, but rarely while leaders
    move (librdkafka, issue 4953); transactions are free of that. `sent` counts messages handed over, `failed` those of
    them that the broker refused or the client gave up in time; after `give_up`, `unsent` those that have certainly not
    arrived, and `unconfirmed` those that may have.

    Batches are as large as the topics of `limits` take. Where the broker refuses one for its size all the same, what
    it held is sent again in smaller ones, and a dead letter in a smaller form; where a topic turns out to take nothing
    without a key, so is what was with it, and the dead letter with one. Where the client itself is broken, another one
    sends what it has had no answer to, of which a few messages may arrive twice. In a transaction, which cannot go on
    after any of this, `narrow` tells whether another one can do better.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        transactional_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Open a producer; `options` are further ones of librdkafka, weaker than ``kafka.options``.

        Raises:
            BrokerError: no broker answers.
            SettingsError: librdkafka refuses an option.
        """
        self._settings, self._transactional_id, self._options = settings, transactional_id, dict(options or {})
        self.limits = limits or Limits()
        self.failure: KafkaError | None = None
        self.failed_topic: str | None = None  # that of `failure`
        self._broken = self._renewing = False  # the client is of no use any more; its messages go to another one
        self._lost_touch = False  # whether a connection has failed, so that what waits may have been sent before
        self._idempotent = transactional_id is not None or not clients.check(settings).embedded
        self._refused: list[_Refused] = []
        self._again: deque[_Refused] = deque()  # what is to be sent again, by number
        self.producer = self._open()
        self.sent = 0
        self.failed = self.unsent = self.unconfirmed = 0
        self._settled = 0  # of those sent, the first so many whose fate is known
        # A client that knows no broker yet when it is first asked for something takes half a second to look again.
        with suppress(KafkaException):
            self.producer.list_topics(timeout=FIRST_LOOK_S)

    @property
    def pending(self) -> int:
        """Messages that are not acknowledged yet, or a few more: the client counts what it has to tell as well."""
        left = len(self.producer) + len(self._refused) + len(self._again)
        if not left:
            self._settled = self.sent
        return min(left, self.sent - self._settled)

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue one message; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        with connection.broker_errors(self._settings, f"cannot send to {topic}"):
            self.enqueue(topic, key, value, headers)

    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        """Queue a dead letter, in a form that `topic` takes; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once.
        """
        with connection.broker_errors(self._settings, f"cannot send to {topic}"):
            self.enqueue_letter(topic, letter)

    def enqueue(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """As `send`, for whoever makes more of a KafkaException than a BrokerError."""
        self._enqueue(topic, key, value, headers, None)

    def enqueue_letter(self, topic: str, letter: DeadLetter, most: int = letters.MAX_LETTER_BYTES) -> None:
        """As `send_letter`, of `most` bytes, for whoever makes more of a KafkaException than a BrokerError."""
        self.enqueue_form(topic, partial(letters.dead_letter_message, letter), most)

    def enqueue_form(self, topic: str, form: Form, most: int = letters.MAX_LETTER_BYTES) -> None:
        """As `enqueue`, of a message that is made as `topic` takes it, of `most` bytes."""
        self._enqueue(topic, *form(min(most, self.limits.of(topic)), keyed=self.limits.keyed(topic)), form)

    def enqueue_many(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]]
    ) -> int:
        """Queue (key, value, headers) one after the other as long as there is room; how many that were.

        There is none while messages are to be sent again: they are before these, and go through another client.

        Raises:
            KafkaException: a message is refused at once, for example for its size.
        """
        self._mend()
        if self._refused or self._again:
            return 0
        produce: Any = self.producer.produce  # headers without a value are allowed, whatever its type hints say
        delivered, first = self._delivered, self.sent
        taken = 0
        try:
            for key, value, headers in messages:
                report = partial(delivered, first + taken, headers, None)
                produce(topic, value, key, headers=headers, on_delivery=report)
                taken += 1
        except BufferError:
            pass
        except KafkaException as error:
            self._break(error)
        finally:
            self.sent += taken
            self.producer.poll(0)
        return taken

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was sent is acknowledged or failed; False if `timeout_s` seconds did not do.

        Raises:
            BrokerError: the broker refuses for good.
        """
        deadline = time.monotonic() + timeout_s
        with connection.broker_errors(self._settings, "cannot send"):
            while self.producer.flush(max(0.0, min(SLICE_S, deadline - time.monotonic()))) or self._mend():
                if time.monotonic() >= deadline:
                    return False
            return True

    def poll(self, timeout_s: float) -> None:
        """Hear what has become of messages, for so many seconds at most."""
        with connection.broker_errors(self._settings, "cannot send"):
            self.producer.poll(timeout_s)
            self._mend()

    def raise_failed(self) -> None:
        """Raise BrokerError if any message was not delivered; the client has retried it until its timeout."""
        if self.failure is not None:
            doing = f"{self.failed} messages were not delivered"
            raise connection.explain(self._settings, doing, self.failure, self.failed_topic)

    def close(self, timeout_s: float) -> None:
        """Flush for the last time.

        Raises:
            BrokerError: something was not delivered or not acknowledged in time.
        """
        if not self.flush(timeout_s):
            raise BrokerError(
                f"{self.pending} messages are not acknowledged by {self._settings.bootstrap_servers} and may be lost; "
                "check kafka.bootstrap_servers and send again"
            )
        self.raise_failed()

    def give_up(self) -> None:
        """Let go of what is not acknowledged, and count it."""
        self._purge()
        for each in (*self._refused, *self._again):
            self._give_up(each.error)
        self._refused.clear()
        self._again.clear()

    def renew(self) -> int:
        """Let a new client send what this one has had no answer to; how many. A few of them may arrive twice."""
        self._renewing = True
        try:
            self._purge()
        finally:
            self._broken = self._renewing = False
        self.unconfirmed += len(self.producer)  # none, but for a client that does not even tell
        self._again = deque(sorted(self._again, key=attrgetter("number")))
        self.producer = self._open()
        return len(self._again)

    def cause(self, error: KafkaError) -> KafkaError:
        """The delivery that failed first, where one did; a failed transaction's `error` says less than that.

        The client fails the transaction before it reports the delivery, so reports that are due are heard first.
        """
        self.producer.flush(SLICE_S)
        return self.failure or error

    def narrow(self) -> bool:
        """Expect less of topics that have refused something; whether that lets all of it be sent in another form."""
        judged = self._judge()
        return bool(judged) and all(again for _, again in judged)

    def _open(self) -> Producer:
        return clients.producer(
            self._settings,
            idempotent=self._idempotent,
            transactional_id=self._transactional_id,
            on_error=self._note,
            **{"batch.size": self.limits.batch} | self._options,
        )

    def _enqueue(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, form: Form | None) -> None:
        if self._refused:
            self._mend()
        pairs = headers if isinstance(headers, list) else list(headers)
        while not self._put(self.sent, topic, key, value, pairs, form):
            self.producer.poll(SLICE_S)
            if self._broken:
                self._mend()
        self.sent += 1
        if self.sent % POLL_EVERY == 0:
            self.producer.poll(0)

    def _put(
        self,
        number: int,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        form: Form | None,
    ) -> bool:
        """Queue one message; False where there is no room, or the client turns out to be broken."""
        produce: Any = self.producer.produce  # headers without a value are allowed, whatever its type hints say
        try:
            produce(topic, value, key, headers=headers, on_delivery=partial(self._delivered, number, headers, form))
        except BufferError:
            return False
        except KafkaException as error:
            self._break(error)
            return False
        return True

    def _delivered(
        self, number: int, headers: Headers, form: Form | None, error: KafkaError | None, message: Message
    ) -> None:
        if error is None:
            return
        code, mendable = error.code(), self._transactional_id is None
        refused = _Refused(number, message.topic() or "", message.key(), message.value(), headers, form, error)
        if mendable and (code in UNSURE or (self._renewing and code in PURGED)):
            self._broken = True
            self._again.append(refused)
        elif code in PURGED:
            self._give_up(error)
        elif code in REFUSED and mendable:
            self._refused.append(refused)
        else:
            if code in REFUSED:
                self._refused.append(refused)
            self._fail(error, message.topic())

    def _note(self, error: KafkaError) -> None:
        connection.logger.info("%s", error)
        self._lost_touch = True
        self._broken = self._broken or error.fatal() or error.code() == KafkaError._FATAL

    def _break(self, error: KafkaException) -> None:
        """Take note that the client takes no messages any more; raises where it is the message that it does not take.

        Raises:
            KafkaException: it is the message, or there is a transaction, which is lost with its client.
        """
        if error.args[0].code() != KafkaError._FATAL or self._transactional_id is not None:
            raise error
        self._broken = True

    def _purge(self) -> None:
        """Have the client give up what it has not sent or heard of, and hear what has become of it."""
        self.producer.purge()
        deadline = time.monotonic() + PURGE_S
        while self.producer.flush(SLICE_S) and time.monotonic() < deadline:
            pass

    def _give_up(self, error: KafkaError) -> None:
        """Count a message that is given up after this."""
        code = error.code()
        if code in UNSURE or code == KafkaError._PURGE_INFLIGHT or (code in PURGED and self._lost_touch):
            self.unconfirmed += 1
        else:
            self.unsent += 1

    def _fail(self, error: KafkaError, topic: str | None) -> None:
        self.failed += 1
        if self.failure is None:
            self.failure, self.failed_topic = error, topic

    def _judge(self) -> list[tuple[_Refused, bool]]:
        """What was refused, and whether there is another batch or form for it; expects less of those topics."""
        refused, self._refused = self._refused, []
        surprising: Counter[str] = Counter()
        for each in refused:
            if each.error.code() in TOO_LARGE and each.size <= self.limits.of(each.topic):
                surprising[each.topic] += each.size
            elif each.keyless:
                self.limits.require_keys(each.topic)
        expected = {topic: self.limits.of(topic) for topic in surprising}
        narrowed = {topic for topic, size in surprising.items() if self.limits.refused(topic, size)}
        return [
            (each, each.topic in narrowed and each.size <= expected[each.topic])
            if each.error.code() in TOO_LARGE
            else (each, each.keyless or each.error.code() == KafkaError._INVALID_DIFFERENT_RECORD)
            for each in refused
        ]

    def _mend(self) -> bool:
        """Send again what was refused for its batch or form, or is with a broken client; whether some is still to be.

        In a transaction there is nothing to mend: it has failed, and `narrow` is asked about another one.
        """
        if self._transactional_id is not None:
            return False
        if self._broken:
            self.renew()
        if self._refused and not self.producer.flush(SLICE_S):  # else more may come back
            for each, again in self._judge():
                if again:
                    self._again.append(each)
                else:
                    self._fail(each.error, each.topic)
            self._again = deque(sorted(self._again, key=attrgetter("number")))
            self.producer = self._open()
        while self._again:
            number, topic, key, value, headers, form, _ = self._again[0]
            if form is not None:
                key, value, headers = form(self.limits.of(topic), keyed=self.limits.keyed(topic))
            if not self._put(number, topic, key, value, headers, form):
                break
            self._again.popleft()
        return bool(self._refused or self._again or len(self.producer))
