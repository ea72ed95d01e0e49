"""Sending without losing anything in silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import cast

from confluent_kafka import KafkaError, Message, Producer

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients

#: Python sees signals between such waits only, so none of them is long.
SLICE_S = 0.1


class Sender:
    """A producer that waits when its queue is full and remembers what was not delivered.

    `sent` counts messages handed over, `failed` those of them that the broker never acknowledged.
    """

    def __init__(self, settings: KafkaSettings, stop: threading.Event | None = None) -> None:
        """Open a producer; when `stop` is set it waits no longer for room in the queue.

        Raises:
            SettingsError: librdkafka refuses an option.
        """
        self._settings = settings
        self._stop = stop
        self._failure: KafkaError | None = None
        self.producer: Producer = clients.producer(settings)
        self.sent = 0
        self.failed = 0

    @property
    def pending(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self.producer)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> bool:
        """Queue one message; waits while the queue is full. False: told to stop while waiting, and not queued.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        # Kafka allows a header without a value; only the client's type hints do not.
        pairs = cast("list[tuple[str, str | bytes | None]]", list(headers))
        with clients.broker_errors(self._settings, f"cannot send to {topic}"):
            while True:
                try:
                    self.producer.produce(topic, value, key, headers=pairs, on_delivery=self._delivered)
                    break
                except BufferError:
                    if self._stop is not None and self._stop.is_set():
                        return False
                    self.producer.poll(SLICE_S)
        self.sent += 1
        self.producer.poll(0)
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was sent is acknowledged or failed; False if `timeout_s` seconds did not do."""
        deadline = time.monotonic() + timeout_s
        while left := self.producer.flush(max(0.0, min(SLICE_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
        return not left

    def raise_failed(self) -> None:
        """Raise BrokerError if any message was not delivered; the client has retried it until its timeout."""
        if self._failure is not None:
            raise clients.explain(self._settings, f"{self.failed} messages were not delivered", self._failure)

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
        if error is not None:
            self.failed += 1
            self._failure = self._failure or error
