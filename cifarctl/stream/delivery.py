"""The choice between exactly-once and at-least-once delivery."""

from __future__ import annotations

from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, options
from cifarctl.stream.at_least_once import AtLeastOnceSink
from cifarctl.stream.exactly_once import ExactlyOnceSink
from cifarctl.stream.sink import Sink
from cifarctl.stream.source import Source


def open_sink(settings: KafkaSettings, source: Source) -> Sink:
    """The sink for `kafka.delivery`; auto means exactly-once, and at-least-once on the embedded broker.

    Raises:
        BrokerError: no broker answers, it refuses, or exactly-once is asked of the embedded one.
        SettingsError: librdkafka refuses an option, or transactions would time out before they are committed.
    """
    embedded = clients.check(settings).embedded
    if settings.delivery == "exactly-once" and embedded:
        raise BrokerError(
            "kafka.delivery = exactly-once: the embedded broker has no reliable transactions; use Apache Kafka, or "
            "kafka.delivery = auto"
        )
    if settings.delivery == "at-least-once" or embedded:
        return AtLeastOnceSink(settings, source)
    timeout_ms = options.transaction_timeout_s(settings) * 1000
    if settings.commit_interval_ms >= timeout_ms:
        raise SettingsError(
            f"kafka.commit_interval_ms = {settings.commit_interval_ms} must be less than "
            f"kafka.options.transaction.timeout.ms = {timeout_ms:g}: change one of them"
        )
    return ExactlyOnceSink(settings, source)
