"""Sending without losing anything in silence."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection

#: Python sees signals between such waits only, so none of them is long.
SLICE_S = 0.1
PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # given up on purpose, by an abort
FIRST_LOOK_S = 1.0
POLL_EVERY = 64  # messages between two looks at what the client has to tell


class Sender:
    """A producer that waits when its queue is full and remembers what was not delivered.

    Idempotent where the broker can do that: a retry neither doubles nor overtakes a message, but rarely while leaders
    move (librdkafka, issue 4953); transactions are free of that. `sent` counts messages handed over, `failed` those of
    them that the broker never acknowledged.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        transactional_id: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a producer; `options` are further ones of librdkafka, weaker than ``kafka.options``.

        Raises:
            BrokerError: no broker answers.
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self.failure: KafkaError | None = None
        self.producer: Producer = clients.producer(
            settings,
            idempotent=transactional_id is not None or not clients.check(settings).embedded,
            transactional_id=transactional_id,
            **(options or {}),
        )
        self.sent = 0
        self.failed = 0
        self._settled = 0  # of those sent, the first so many whose fate is known
        # A client that knows no broker yet when it is first asked for something takes half a second to look again.
        with suppress(KafkaException):
            self.producer.list_topics(timeout=FIRST_LOOK_S)

    @property
    def pending(self) -> int:
        """Messages that are not acknowledged yet, or a few more: the client counts what it has to tell as well."""
        left = len(self.producer)
        if not left:
            self._settled = self.sent
        return min(left, self.sent - self._settled)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> None:
        """Queue one message; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        with connection.broker_errors(self._settings, f"cannot send to {topic}"):
            self.enqueue(topic, key, value, headers)

    def enqueue(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = ()
    ) -> None:
        """As `send`, for whoever makes more of a KafkaException than a BrokerError."""
        # Kafka allows a header without a value; only the client's type hints do not.
        pairs = cast("list[tuple[str, str | bytes | None]]", headers if isinstance(headers, list) else list(headers))
        while True:
            try:
                self.producer.produce(topic, value, key, headers=pairs, on_delivery=self._delivered)
                break
            except BufferError:
                self.producer.poll(SLICE_S)
        self.sent += 1
        if self.sent % POLL_EVERY == 0:
            self.producer.poll(0)

    def enqueue_many(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]]
    ) -> int:
        """Queue (key, value, headers) one after the other as long as there is room; how many that were.

        Raises:
            KafkaException: a message is refused at once, for example for its size.
        """
        produce: Any = self.producer.produce  # headers without a value are allowed, whatever its type hints say
        delivered = self._delivered
        taken = 0
        try:
            for key, value, headers in messages:
                produce(topic, value, key, headers=headers, on_delivery=delivered)
                taken += 1
        except BufferError:
            pass
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
            while left := self.producer.flush(max(0.0, min(SLICE_S, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    return False
            return not left

    def poll(self, timeout_s: float) -> None:
        """Hear what has become of messages, for so many seconds at most."""
        with connection.broker_errors(self._settings, "cannot send"):
            self.producer.poll(timeout_s)

    def raise_failed(self) -> None:
        """Raise BrokerError if any message was not delivered; the client has retried it until its timeout."""
        if self.failure is not None:
            raise connection.explain(self._settings, f"{self.failed} messages were not delivered", self.failure)

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

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() not in PURGED:
            self.failed += 1
            self.failure = self.failure or error
