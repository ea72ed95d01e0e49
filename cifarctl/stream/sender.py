"""A producer that loses no message silently."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, letters
from cifarctl.stream.limits import Limits
from cifarctl.stream.records import DeadLetter
from cifarctl.stream.sink import Headers
from cifarctl.stream.undelivered import REFUSED, Form, Undelivered, UndeliveredMessages

#: Python handles signals only between waits, so none of them is long.
SLICE_S = 0.1
PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # given up on purpose, by an abort
PURGE_S = 10.0  # for the reports of all purged messages: 10,922 images, on a busy machine
#: The producer's sequence numbers are lost: only a new client can go on, and the message may have arrived.
SEQUENCE_LOST = {
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError._FATAL,
}
FIRST_METADATA_S = 1.0
POLL_EVERY = 64  # messages between two polls for delivery reports


class Sender:
    """A producer that waits when its queue is full and remembers undelivered messages.

    Idempotent where the broker supports it: a retry neither duplicates nor reorders messages, with rare exceptions
    while leaders move (librdkafka issue 4953); transactions have none. `sent` counts messages handed over, `failed`
    those of them that the broker refused or that timed out. After `give_up`, `unsent` counts messages that have
    certainly not arrived, and `unconfirmed` those that may have.

    Batches are as large as the topics in `limits` accept. If the broker still refuses one for its size, its messages
    are sent again in smaller batches, and a dead letter in a smaller form. If a topic turns out to require keys, the
    rest of the batch is sent again, and the dead letter with a key. If the client itself is broken, a new one sends all
    unacknowledged messages, a few of which may arrive twice. A transaction cannot go on after any of this; `narrow`
    tells whether a new one can succeed.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        transactional_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Open a producer; `options` are further librdkafka options, which ``kafka.options`` overrides.

        Raises:
            BrokerError: no broker answers.
            SettingsError: librdkafka refuses an option.
        """
        self._settings, self._transactional_id, self._options = settings, transactional_id, dict(options or {})
        self.limits = limits or Limits()
        self._undelivered = UndeliveredMessages(self.limits)
        self.failure: KafkaError | None = None  # the first
        self.failed_topic: str | None = None  # of that failure
        self._broken = self._renewing = False  # the client is unusable; its messages go to a new one
        self._disconnected = False  # a connection has failed, so queued messages may have been sent before
        self._idempotent = transactional_id is not None or not clients.check(settings).embedded
        self.producer = self._open()
        self.sent = 0
        self.failed = self.unsent = self.unconfirmed = 0
        self._settled = 0  # the first messages sent, whose outcome is known
        # A client that knows no broker when it is first asked for something waits half a second before it tries again.
        with suppress(KafkaException):
            self.producer.list_topics(timeout=FIRST_METADATA_S)

    @property
    def pending(self) -> int:
        """Messages that are not acknowledged yet, or a few more: the client also counts reports not yet delivered."""
        left = len(self.producer) + len(self._undelivered)
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
        """Queue a dead letter, in a form that `topic` accepts; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once.
        """
        with connection.broker_errors(self._settings, f"cannot send to {topic}"):
            self.enqueue_letter(topic, letter)

    def enqueue(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """As `send`, but raises Kafka's own KafkaException."""
        self._enqueue(topic, key, value, headers, None)

    def enqueue_letter(self, topic: str, letter: DeadLetter, limit: int = letters.MAX_LETTER_BYTES) -> None:
        """As `send_letter`, with at most `limit` bytes, but raises Kafka's own KafkaException."""
        self.enqueue_form(topic, partial(letters.dead_letter_message, letter), limit)

    def enqueue_form(self, topic: str, form: Form, limit: int = letters.MAX_LETTER_BYTES) -> None:
        """As `enqueue`, for a message that is made in the form that `topic` accepts, with at most `limit` bytes."""
        self._enqueue(topic, *form(min(limit, self.limits.of(topic)), keyed=self.limits.keyed(topic)), form)

    def enqueue_many(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]]
    ) -> int:
        """Queue (key, value, headers) one after the other while there is room; returns how many.

        There is no room while messages wait to be sent again: they go first.

        Raises:
            KafkaException: a message is refused at once, for example for its size.
        """
        self._mend()
        if self._undelivered:
            return 0
        produce: Any = self.producer.produce  # its type hints forbid headers without a value, which are allowed
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
        """Wait until all messages are acknowledged or have failed; False if that takes longer than `timeout_s` seconds.

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
        """Take in delivery reports, for at most `timeout_s` seconds."""
        with connection.broker_errors(self._settings, "cannot send"):
            self.producer.poll(timeout_s)
            self._mend()

    def raise_failed(self) -> None:
        """Raise BrokerError if any message was not delivered; the client has retried it until its timeout."""
        if self.failure is not None:
            doing = f"{self.failed} messages were not delivered"
            raise connection.explain(self._settings, doing, self.failure, self.failed_topic)

    def clear_failure(self) -> None:
        """Forget the failure of an earlier transaction."""
        self.failure = self.failed_topic = None

    def close(self, timeout_s: float) -> None:
        """Flush for the last time.

        Raises:
            BrokerError: a message was not delivered, or not acknowledged in time.
        """
        if not self.flush(timeout_s):
            raise BrokerError(
                f"{self.pending} messages are not acknowledged by {self._settings.bootstrap_servers} and may be lost; "
                "check kafka.bootstrap_servers and send again"
            )
        self.raise_failed()

    def give_up(self) -> None:
        """Drop all messages that are not acknowledged, and count them."""
        self._purge()
        for message in self._undelivered.clear():
            self._count_given_up(message.error)

    def renew(self) -> int:
        """Send all unacknowledged messages through a new client; how many. A few of them may arrive twice."""
        self._renewing = True
        try:
            self._purge()
        finally:
            self._broken = self._renewing = False
        self.unconfirmed += len(self.producer)  # 0, unless the client does not even report purged messages
        count = self._undelivered.restore_order()
        self.producer = self._open()
        return count

    def cause(self, error: KafkaError) -> KafkaError:
        """The delivery that failed first, if any, which says more than the `error` of the failed transaction.

        The client fails the transaction before it reports the delivery, so reports that are due are taken in first.
        """
        with suppress(KafkaException):  # raised by a client that has failed for good: what it has reported counts
            self.producer.flush(SLICE_S)
        return self.failure or error

    def narrow(self) -> bool:
        """Lower the limits of topics that have refused messages; whether all of these can be sent in another form."""
        return self._undelivered.narrow()

    def _open(self) -> Producer:
        return clients.producer(
            self._settings,
            idempotent=self._idempotent,
            transactional_id=self._transactional_id,
            on_error=self._note,
            **{"batch.size": self.limits.batch} | self._options,
        )

    def _enqueue(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, form: Form | None) -> None:
        if self._undelivered.refused:
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
        self, number: int, topic: str, key: bytes | None, value: bytes | None, headers: Headers, form: Form | None
    ) -> bool:
        """Queue one message; False if there is no room, or the client turns out to be broken."""
        produce: Any = self.producer.produce  # its type hints forbid headers without a value, which are allowed
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
        failed = Undelivered(number, message.topic() or "", message.key(), message.value(), headers, form, error)
        if mendable and (code in SEQUENCE_LOST or (self._renewing and code in PURGED)):
            self._broken = True
            self._undelivered.add_unanswered(failed)
        elif code in PURGED:
            self._count_given_up(error)
        elif code in REFUSED and mendable:
            self._undelivered.add_refused(failed)
        else:
            if code in REFUSED:
                self._undelivered.add_refused(failed)
            self._count_failed(error, message.topic())

    def _note(self, error: KafkaError) -> None:
        connection.logger.info("%s", error)
        self._disconnected = True
        self._broken = self._broken or error.fatal() or error.code() == KafkaError._FATAL

    def _break(self, error: KafkaException) -> None:
        """Note that the client accepts no more messages.

        Raises:
            KafkaException: only this message is refused, or there is a transaction, which is lost with its client.
        """
        if error.args[0].code() != KafkaError._FATAL or self._transactional_id is not None:
            raise error
        self._broken = True

    def _purge(self) -> None:
        """Have the client give up all unacknowledged messages, and take in the reports."""
        self.producer.purge()
        deadline = time.monotonic() + PURGE_S
        while self.producer.flush(SLICE_S) and time.monotonic() < deadline:
            pass

    def _count_given_up(self, error: KafkaError) -> None:
        code = error.code()
        may_have_arrived = code in SEQUENCE_LOST or code == KafkaError._PURGE_INFLIGHT
        if may_have_arrived or (code in PURGED and self._disconnected):
            self.unconfirmed += 1
        else:
            self.unsent += 1

    def _count_failed(self, error: KafkaError, topic: str | None) -> None:
        self.failed += 1
        if self.failure is None:
            self.failure, self.failed_topic = error, topic

    def _mend(self) -> bool:
        """Send again messages that were refused for their batch or form or went down with a broken client.

        Returns whether messages are still to be sent. Does nothing in a transaction: it has failed, and `narrow` tells
        whether a new one can succeed.
        """
        if self._transactional_id is not None:
            return False
        if self._broken:
            self.renew()
        if self._undelivered.refused and not self.producer.flush(SLICE_S):  # else more may come back
            for message in self._undelivered.sort_out():
                self._count_failed(message.error, message.topic)
            self.producer = self._open()
        self._undelivered.resend(lambda message: self._put(*message[:-1]))
        return bool(self._undelivered or len(self.producer))
