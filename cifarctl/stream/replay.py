"""Sending dead letters back to where they came from, each with a receipt."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import background, clients, connection, letters, options
from cifarctl.stream.background import OVERTIME_S
from cifarctl.stream.limits import TOO_LARGE, of_topics
from cifarctl.stream.records import Headers
from cifarctl.stream.sender import Sender
from cifarctl.stream.transactions import CLOSE_TIMEOUT_S, OPEN_TIMEOUT_S
from cifarctl.stream.undelivered import REFUSED

BATCH = 500
PATIENCE = 0.6  # of the transaction's timeout, for what it carries to arrive
#: The client's own limit of a message out of the way: the broker's and the topic's are what counts.
LARGEST_MESSAGE = 1_000_000_000


class ReplayMessage(NamedTuple):
    """A message to send back, and the place of its letter."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int
    offset: int


class ReplayOutcome(enum.Enum):
    """What came of an attempt to send a batch back; nothing of it is there unless DONE."""

    DONE = enum.auto()
    TOO_LARGE = enum.auto()  # one of its messages is larger than the topic takes
    TOO_SLOW = enum.auto()  # the broker does not take so much within a transaction's time


class Replay:
    """Sends messages together with the receipts that they have been sent: a context manager.

    Exactly once by a transaction for each batch, whose id is fixed: whoever opens it ends what another has left open,
    and the other one can commit nothing more. Where there are no transactions (the embedded broker,
    ``kafka.delivery = at-least-once``) a receipt follows the acknowledgement of its message, so an end in between
    leaves one message that will be sent again.
    """

    def __init__(self, settings: KafkaSettings, letters_topic: str) -> None:
        """Receipts go to `letters_topic`.

        Raises:
            BrokerError: no broker answers, or it opens no transaction.
            SettingsError: librdkafka refuses an option.
        """
        self._settings, self._letters_topic = settings, letters_topic
        names = clients.Topics.of(settings.topic_prefix)
        self._limits = of_topics(settings, [names.images, names.labels, letters_topic])
        self._patience_s = PATIENCE * options.transaction_timeout_s(settings)
        self._batch = BATCH
        self._transactional = settings.delivery != "at-least-once" and not clients.check(settings).embedded
        self._sender = self._open()

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.producer.purge()
        with suppress(BrokerError):  # what is left is given up anyway
            self._sender.flush(CLOSE_TIMEOUT_S)

    @property
    def batch(self) -> int:
        """How many messages `send` takes at most: they are delivered together or not at all."""
        return self._batch if self._transactional else 1

    def send(self, batch: Sequence[ReplayMessage]) -> ReplayOutcome:
        """Send messages and receipts and wait until they are there.

        Raises:
            BrokerError: they are not delivered.
        """
        while True:
            sender = self._sender
            try:
                if not self._transactional:
                    self._send_and_flush(self._message, batch)
                    self._send_and_flush(self._receipt, batch)
                elif not self._send_in_transaction(batch):
                    self._batch = max(1, len(batch) // 2)
                    self._reopen()
                    return ReplayOutcome.TOO_SLOW
                return ReplayOutcome.DONE
            except KafkaException as error:
                # What the broker says of a message is more than what follows: a failed transaction, purged neighbours.
                codes = {cause.code() for cause in (error.args[0], sender.failure) if cause is not None}
                again = self._transactional and bool(codes & REFUSED) and sender.narrow()
                if not again and not codes & TOO_LARGE:
                    doing = "letters cannot be sent back"
                    raise connection.explain(self._settings, doing, error.args[0], sender.failed_topic) from None
                # The client miscounts after a message that the broker has refused: each transaction would fail now.
                self._reopen()
                if not again:
                    return ReplayOutcome.TOO_LARGE

    def _reopen(self) -> None:
        self._sender.producer.purge()
        self._sender = self._open()

    def _open(self) -> Sender:
        sender = Sender(
            self._settings,
            transactional_id=f"{self._letters_topic}.replay" if self._transactional else None,
            options={"linger.ms": 1, "message.max.bytes": LARGEST_MESSAGE},
            limits=self._limits,
        )
        if self._transactional:
            with connection.broker_errors(self._settings, "cannot open a transaction"):
                _retried(sender.producer.init_transactions, OPEN_TIMEOUT_S)
        return sender

    def _send_in_transaction(self, batch: Sequence[ReplayMessage]) -> bool:
        """False: it is not there in time, and the transaction is still open."""
        producer = self._sender.producer
        producer.begin_transaction()
        try:
            for item in batch:
                self._message(item)
                self._receipt(item)
            if not self._flushed():
                return False
            _retried(producer.commit_transaction, self._settings.timeout_s)
            return True
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                with suppress(KafkaException):  # the first error tells more
                    _retried(producer.abort_transaction, self._settings.timeout_s)
            raise

    def _flushed(self) -> bool:
        try:
            return self._sender.flush(self._patience_s)
        except BrokerError:  # the commit says what it is
            return True

    def _send_and_flush(self, enqueue: Callable[[ReplayMessage], None], batch: Sequence[ReplayMessage]) -> None:
        for item in batch:
            enqueue(item)
        if not self._sender.flush(self._settings.timeout_s):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if self._sender.failure is not None:
            raise KafkaException(self._sender.failure)

    def _message(self, item: ReplayMessage) -> None:
        self._sender.enqueue(item.topic, item.key, item.value, item.headers)

    def _receipt(self, item: ReplayMessage) -> None:
        self._sender.enqueue_form(self._letters_topic, partial(letters.receipt_message, item.partition, item.offset))


def _retried(call: Callable[[float], object], timeout_s: float) -> None:
    """Call until it succeeds, fails for good, or the time is over, its own or that of a call which does not return."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(connection.RETRY_S, deadline - time.monotonic())
        try:
            background.start(call, left).result(left + OVERTIME_S)
            return
        except FutureTimeout:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() >= deadline:
                raise
            time.sleep(connection.RETRY_S)
