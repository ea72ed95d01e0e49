"""Results out first, offsets committed afterwards: each input is answered at least once."""

from __future__ import annotations

import time

from typing_extensions import override

from cifarctl.settings import KafkaSettings
from cifarctl.stream.records import DeadLetter
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Commit, Headers
from cifarctl.stream.source import Source
from cifarctl.stream.tracking import LINGER_MS, TrackingSink


class AtLeastOnceSink(TrackingSink):
    """Waits for the acknowledgements, then commits the offsets."""

    delivery = "at-least-once"

    def __init__(self, settings: KafkaSettings, source: Source) -> None:
        """Open a producer.

        Raises:
            BrokerError: no broker answers.
            SettingsError: librdkafka refuses an option.
        """
        super().__init__(settings, source)
        # Messages never time out: offsets move only after the acknowledgement, so nothing that waits is lost.
        patient = {"message.timeout.ms": 0, "linger.ms": LINGER_MS}
        self._sender = Sender(settings, options=patient, limits=self._limits)
        self._committing = False  # waiting for the acknowledgements or for the offsets

    @property
    @override
    def pending(self) -> int:
        return self._sender.pending

    @property
    @override
    def busy(self) -> bool:
        """Messages sent during a pending commit would have to be waited for as well."""
        return self._committing

    @override
    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        self._sender.send(topic, key, value, headers)

    @override
    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        self._sender.send_letter(topic, letter)

    @override
    def commit(self, timeout_s: float | None = None) -> Commit:
        """Never `UNDONE`."""
        limit = self._settings.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        offsets = self._source.settled(self._positions)
        self._committing = bool(offsets)
        if not offsets:
            return Commit.DONE
        acknowledged = self._sender.flush(limit)
        self._sender.raise_failed()
        self._committed_at = time.monotonic()
        if not acknowledged:
            self._require_topics(self._sender)
        if not acknowledged or not self._source.commit(offsets, max(0.0, deadline - time.monotonic())):
            return Commit.PENDING
        self._committing = False
        self._count()
        self._settle()
        return Commit.DONE

    @override
    def undo(self) -> None:
        """Sent messages stay sent, and will be sent again."""
        self._committing = False
        self._settle()
        self.undone += 1

    @override
    def close(self) -> None:
        pass
