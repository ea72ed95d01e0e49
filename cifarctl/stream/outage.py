"""Whether the broker is away: errors that pass are waited out, errors that last end the reading."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection

PROBE_INTERVAL_S = 1.0  # between two attempts to reach a broker that was lost
PROBE_S = 0.5  # for its answer


class Outage:
    """The last error that the client reported, until the broker answers again."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._error: KafkaError | None = None
        self._probe_at = 0.0

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self._error is not None

    @property
    def cause(self) -> str | None:
        """Why the broker does not answer; None while it does."""
        return None if self._error is None else self._error.str()

    def note(self, error: KafkaError) -> None:
        """Remember an error. The client calls this from within consume, so it must not raise."""
        connection.logger.info("%s", error)
        if self._error is None or _lasting(error) or not _lasting(self._error):
            self._error = error

    def note_silence(self, error: KafkaError) -> None:
        """Remember that the broker left a question unanswered.

        A suspended broker keeps its connections open, so the client itself reports nothing.
        """
        if error.code() in connection.UNREACHABLE and self._error is None:
            self.note(error)

    def check(self, consumer: Consumer) -> None:
        """Find out now and then whether the broker is back.

        Raises:
            BrokerError: the error does not pass by waiting.
        """
        if self._error is None:
            return
        if _lasting(self._error):
            raise connection.explain(self._settings, "cannot read", self._error)
        now = time.monotonic()
        if now >= self._probe_at:
            # Messages prove nothing, since they may have been fetched before; a new connection is not reported.
            self._probe_at = now + PROBE_INTERVAL_S
            try:
                consumer.list_topics(timeout=PROBE_S)
                self._error = None
            except KafkaException as error:
                self._error = error.args[0]


def _lasting(error: KafkaError) -> bool:
    """Whether waiting does not help: the client is broken, or the broker refuses us."""
    return error.fatal() or error.code() in connection.UNAUTHENTICATED | connection.FORBIDDEN
