"""A lane: messages to one topic, none of which is given up, however long the broker is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection
from cifarctl.stream.limits import of_topics
from cifarctl.stream.producer_stall import ProducerStall
from cifarctl.stream.records import Headers
from cifarctl.stream.sender import Sender

Message: TypeAlias = tuple[bytes, bytes, Headers]  # key, value, headers


class Lane:
    """Sends to one topic without ever blocking: a full queue takes fewer messages, and the caller tries again."""

    def __init__(self, kafka: KafkaSettings, topic: str, *, linger: bool) -> None:
        """With `linger` the client waits for larger batches: more messages a second, each a little later."""
        options = {"message.timeout.ms": 0} | ({} if linger else {"linger.ms": 0})
        self.sender = Sender(kafka, options=options, limits=of_topics(kafka, [topic]))
        self._kafka, self._topic = kafka, topic
        self._stall = ProducerStall(self.sender, topic)

    @property
    def pending(self) -> int:
        """Messages that are neither delivered nor failed yet."""
        return self.sender.pending

    @property
    def delivered(self) -> int:
        """Messages that the broker has acknowledged."""
        return self.sender.sent - self.failed - self.sender.unconfirmed - self.sender.pending

    @property
    def failed(self) -> int:
        """Messages that have certainly not arrived, or that the client has given up after its time limit."""
        return self.sender.failed + self.sender.unsent

    def put(self, messages: Sequence[Message]) -> int:
        """Queue as many of `messages` as there is room for, from the first on; returns their number.

        Raises:
            BrokerError: a message is refused at once.
        """
        with connection.broker_errors(self._kafka, f"cannot send to {self._topic}"):
            return self.sender.enqueue_many(self._topic, messages)

    def look(self) -> int:
        """Serve acknowledgements; how many messages a new client was given, 0 while all is well: see ProducerStall."""
        self.sender.poll(0)
        return self._stall.look()

    def flush(self, timeout_s: float) -> None:
        """Wait until no message is pending, `timeout_s` seconds at most."""
        if self.pending:
            self.sender.flush(timeout_s)
