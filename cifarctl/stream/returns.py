"""Sending dead letters back to where they came from, each with a receipt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection, letters, limited
from cifarctl.stream.records import Headers
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import CLOSE_TIMEOUT_S, OPEN_TIMEOUT_S
from cifarctl.stream.source import OVERTIME_S

BATCH = 500
#: The client's own limit of a message out of the way: the broker's and the topic's are what counts.
LARGEST_MESSAGE = 1_000_000_000


class Return(NamedTuple):
    """A message to send back, and the place of its letter."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int
    offset: int


class Returns:
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
        self._transactional = settings.delivery != "at-least-once" and not clients.check(settings).embedded
        self._sender = self._open()

    def __enter__(self) -> Returns:
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
        return BATCH if self._transactional else 1

    def send(self, batch: Sequence[Return]) -> bool:
        """Send messages and receipts and wait until they are there; False: one is larger than the broker takes.

        Raises:
            BrokerError: they are not delivered.
        """
        sender = self._sender
        try:
            if self._transactional:
                self._send_in_transaction(batch)
            else:
                self._send_and_flush([(item.topic, item.key, item.value, item.headers) for item in batch])
                self._send_and_flush([self._receipt(item) for item in batch])
            return True
        except KafkaException as error:
            # What the broker says of a message is more than what follows: a failed transaction, purged neighbours.
            causes = (error.args[0], sender.failure)
            if any(cause is not None and cause.code() == KafkaError.MSG_SIZE_TOO_LARGE for cause in causes):
                # The client miscounts after a message that the broker has refused: each transaction would fail now.
                sender.producer.purge()
                self._sender = self._open()
                return False
            raise connection.explain(self._settings, "letters cannot be sent back", error.args[0]) from None

    def _open(self) -> Sender:
        sender = Sender(
            self._settings,
            transactional_id=f"{self._letters_topic}.replay" if self._transactional else None,
            options={"linger.ms": 1, "message.max.bytes": LARGEST_MESSAGE},
        )
        if self._transactional:
            with connection.broker_errors(self._settings, "cannot open a transaction"):
                _retried(sender.producer.init_transactions, OPEN_TIMEOUT_S)
        return sender

    def _send_in_transaction(self, batch: Sequence[Return]) -> None:
        producer = self._sender.producer
        producer.begin_transaction()
        try:
            for item in batch:
                self._sender.enqueue(item.topic, item.key, item.value, item.headers)
                self._sender.enqueue(*self._receipt(item))
            _retried(producer.commit_transaction, self._settings.timeout_s)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                with suppress(KafkaException):  # the first error tells more
                    _retried(producer.abort_transaction, self._settings.timeout_s)
            raise

    def _send_and_flush(self, messages: Sequence[tuple[str, bytes | None, bytes | None, Headers]]) -> None:
        for message in messages:
            self._sender.enqueue(*message)
        if not self._sender.flush(self._settings.timeout_s):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if self._sender.failure is not None:
            raise KafkaException(self._sender.failure)

    def _receipt(self, item: Return) -> tuple[str, bytes | None, bytes | None, Headers]:
        return self._letters_topic, None, None, letters.receipt(item.partition, item.offset)


def _retried(call: Callable[[float], object], timeout_s: float) -> None:
    """Call until it succeeds, fails for good, or the time is over, its own or that of a call which does not return."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(connection.RETRY_S, deadline - time.monotonic())
        try:
            limited.begin(call, left).result(left + OVERTIME_S)
            return
        except FutureTimeout:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() >= deadline:
                raise
            time.sleep(connection.RETRY_S)
