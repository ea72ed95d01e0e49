"""The librdkafka options of a client: the user's, and ours where they do not contradict them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarctl.errors import SettingsError
from cifarctl.settings import KafkaSettings

#: Other names of the same options.
ALIASES = {
    "delivery.timeout.ms": "message.timeout.ms",
    "queue.buffering.max.ms": "linger.ms",
    "max.in.flight.requests.per.connection": "max.in.flight",
    "message.send.max.retries": "retries",
}
TRANSACTION_TIMEOUT_MS = 10_000
#: librdkafka's defaults of session.timeout.ms, fetch.max.bytes and message.max.bytes.
SESSION_MS = 45_000
FETCH_BYTES = 52_428_800
MESSAGE_BYTES = 1_000_000
#: receive.message.max.bytes must exceed fetch.max.bytes by this much.
FRAME_BYTES = 512
MIN_FETCH_BYTES = 1000  # the smallest message.max.bytes, which fetch.max.bytes must reach


def numbers(settings: KafkaSettings) -> dict[str, float]:
    """The numeric ones of `kafka.options`, by librdkafka's preferred names."""
    found = {}
    for name, value in settings.options.items():
        try:
            found[ALIASES.get(name, name)] = float(value)
        except ValueError:
            continue
    return found


def transaction_timeout_s(settings: KafkaSettings) -> float:
    """Seconds after which the broker aborts a transaction."""
    return numbers(settings).get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS) / 1000


def merged(settings: KafkaSettings, own: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The `own` options of a client of `kind` (producer, consumer, admin), overridden by ``kafka.options``.

    If a valid option of the user contradicts one of ours, or a librdkafka default that matters only to another kind of
    client, the latter is adjusted.

    Raises:
        SettingsError: two options of the user contradict each other, or one contradicts the delivery guarantee.
    """
    given = {ALIASES.get(name, name): value for name, value in settings.options.items()}
    config = {
        **own,
        **{name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()},
    }
    _Reconciliation(settings, numbers(settings), own, config).run(kind)
    return config


class _Reconciliation:
    """Makes the options of one client consistent; changes `config`."""

    def __init__(
        self, settings: KafkaSettings, given: Mapping[str, float], own: Mapping[str, Any], config: dict[str, Any]
    ) -> None:
        self._settings, self._given, self._own, self._config = settings, given, own, config

    def run(self, kind: str) -> None:
        self._backoff()
        if kind == "producer":
            self._producer()
        elif kind == "consumer":
            self._fetches()
            self._session()
        if not self._own.get("enable.idempotence"):
            self._config.pop("enable.gapless.guarantee", None)  # valid for idempotent producers only

    def _backoff(self) -> None:
        low, high = self._given.get("reconnect.backoff.ms"), self._given.get("reconnect.backoff.max.ms")
        if low is not None and high is None:
            self._raise("reconnect.backoff.max.ms", low)
        elif high is not None and low is None:
            self._lower("reconnect.backoff.ms", high)
        elif low is not None and high is not None and low > high:
            raise self._contradiction("reconnect.backoff.ms", "at most", "reconnect.backoff.max.ms")

    def _producer(self) -> None:
        if "batch.size" in self._own:  # the limits of the topics
            self._lower("batch.size", self._own["batch.size"])
        if self._own.get("enable.idempotence"):
            self._lower("max.in.flight", 5)  # librdkafka keeps the order of at most 5
        if "transactional.id" in self._own:
            limit = self._number("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
            if self._number("linger.ms", 0) >= limit:
                raise self._contradiction("linger.ms", "less than", "transaction.timeout.ms", limit)
            if "message.timeout.ms" in self._config and not 0 < self._number("message.timeout.ms", 0) <= limit:
                self._config["message.timeout.ms"] = int(limit)  # a message must not outlive its transaction
            self._lower("socket.timeout.ms", limit)
        life = self._number("message.timeout.ms", 0)
        if 0 < life <= self._number("linger.ms", 0):
            if "linger.ms" in self._given:
                raise self._contradiction("linger.ms", "less than", "message.timeout.ms")
            self._config["linger.ms"] = max(0, int(life) - 1)

    def _fetches(self) -> None:
        frame = self._given.get("receive.message.max.bytes")
        if frame is not None:
            if frame < FRAME_BYTES + MIN_FETCH_BYTES:
                raise SettingsError(
                    f"kafka.options.receive.message.max.bytes = {frame:g} leaves no room for a message: set it to "
                    f"{FRAME_BYTES + MIN_FETCH_BYTES} or more"
                )
            if self._given.get("fetch.max.bytes", 0) + FRAME_BYTES > frame:
                raise self._contradiction(
                    "fetch.max.bytes", f"at least {FRAME_BYTES} less than", "receive.message.max.bytes"
                )
            if "fetch.max.bytes" not in self._given:
                self._config["fetch.max.bytes"] = int(min(FETCH_BYTES, frame - FRAME_BYTES))
        if "fetch.max.bytes" in self._config:  # librdkafka compares it with a limit for producers
            fetch = self._number("fetch.max.bytes", FETCH_BYTES)
            if fetch < self._number("message.max.bytes", MESSAGE_BYTES):
                self._config["message.max.bytes"] = int(max(MIN_FETCH_BYTES, fetch))

    def _session(self) -> None:
        if self._own.get("group.protocol") == "consumer":
            for name in ("session.timeout.ms", "heartbeat.interval.ms"):
                if name in self._config:
                    raise SettingsError(
                        f"kafka.options.{name} = {self._config[name]} cannot be set with the group protocol consumer, "
                        "where the broker sets it: remove it, or set kafka.group_protocol = classic"
                    )
            return
        silence = self._given.get("max.poll.interval.ms")
        if silence is None or silence >= self._number("session.timeout.ms", SESSION_MS):
            return
        if "session.timeout.ms" in self._given:
            raise self._contradiction("max.poll.interval.ms", "at least", "session.timeout.ms")
        if "session.timeout.ms" in self._own:
            raise SettingsError(
                f"kafka.options.max.poll.interval.ms = {silence:g} must be at least kafka.session_timeout_ms = "
                f"{self._settings.session_timeout_ms}: raise the first or lower the second"
            )
        self._config["session.timeout.ms"] = int(silence)  # for a client that joins no group

    def _number(self, name: str, default: float) -> float:
        try:
            return float(self._config.get(name, default))
        except (TypeError, ValueError):  # librdkafka reports what is wrong with it
            return default

    def _lower(self, name: str, limit: float) -> None:
        if name in self._config and self._number(name, limit) > limit:
            self._config[name] = int(limit)

    def _raise(self, name: str, limit: float) -> None:
        if self._number(name, 0) < limit:
            self._config[name] = int(limit)

    def _contradiction(self, one: str, relation: str, other: str, default: float | None = None) -> SettingsError:
        values = [f"kafka.options.{name} = {self._given.get(name, default):g}" for name in (one, other)]
        return SettingsError(f"{values[0]} must be {relation} {values[1]}: change one of them")
