"""Kafka clients from the settings, the topics, and the one place where Kafka's errors become ours."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic  # admin has it too, but not for type checkers

from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings

LONGEST_CHECK_S = 10.0

logger = logging.getLogger("cifarctl.kafka")
logger.addHandler(logging.NullHandler())  # else Python prints the clients' warnings to stderr by itself

#: What delivery rests on. An option that changed one of these would lose messages in silence.
RESERVED = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "group.id": "set kafka.group_id",
    "enable.auto.commit": "offsets are committed after the predictions are acknowledged",
    "enable.auto.offset.store": "offsets are committed after the predictions are acknowledged",
    "enable.partition.eof": "the end of a partition must be noticed",
    "delivery.report.only.error": "failed deliveries must be noticed",
    "error_cb": "errors of the connection must be noticed",
    "logger": "the client logs to cifarctl.kafka",
}
#: librdkafka's names of what has a setting of its own.
NAMED = {
    "sasl.mechanism": "kafka.sasl_mechanism",
    "sasl.mechanisms": "kafka.sasl_mechanism",
    "sasl.username": "kafka.sasl_username",
    "sasl.password": "kafka.sasl_password",
    "security.protocol": "kafka.security_protocol",
    "ssl.ca.location": "kafka.ssl_ca_location",
    "session.timeout.ms": "kafka.session_timeout_ms",
    "heartbeat.interval.ms": "kafka.session_timeout_ms",
}

UNREACHABLE = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._WAIT_COORD,
    KafkaError._MSG_TIMED_OUT,
}
UNAUTHENTICATED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


@dataclass(frozen=True)
class Topics:
    """Names of all topics."""

    images: str
    labels: str
    predictions: str
    dead_letters: str
    learner: str

    @classmethod
    def of(cls, prefix: str) -> Topics:
        """The names under `prefix`."""
        return cls(
            images=f"{prefix}.images",
            labels=f"{prefix}.labels",
            predictions=f"{prefix}.predictions",
            dead_letters=f"{prefix}.dead-letters",
            learner=f"{prefix}.learner",
        )


def producer(settings: KafkaSettings, *, on_error: Callable[[KafkaError], None] | None = None) -> Producer:
    """A producer that waits for every replica; not idempotent, which the embedded broker does not support.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    own = {
        "acks": "all",
        "linger.ms": 5,
        "delivery.report.only.error": True,
        # Java's default, so that a key lies in the partition of the same number whoever sent it.
        "partitioner": "murmur2_random",
    }
    client: Producer = _create(Producer, settings, own, on_error)
    return client


def consumer(
    settings: KafkaSettings,
    group_id: str,
    *,
    on_error: Callable[[KafkaError], None] | None = None,
    **extra: Any,
) -> Consumer:
    """A consumer that commits only when told to and starts a new group at the earliest message.

    Args:
        settings: connection; `kafka.options` overrides what is set here.
        group_id: consumer group.
        on_error: gets the errors of connections, from within poll and consume.
        extra: further librdkafka options, ``**{"isolation.level": "read_committed"}``.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    own = {
        "group.id": group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 3,
        # The embedded broker answers a fetch only after half of this time, however much there is.
        "fetch.wait.max.ms": 10,
        "fetch.queue.backoff.ms": 20,  # the default of a second starves a fast reader of small queues
        "queued.min.messages": 5000,
        "queued.max.messages.kbytes": 32 * 1024,
        **extra,
    }
    client: Consumer = _create(Consumer, settings, own, on_error)
    return client


def check(settings: KafkaSettings) -> None:
    """Ask the broker for its topics; returns when it has answered.

    Raises:
        BrokerError: no answer within `kafka.timeout_s` (10 s at most); names address, setting and remedy.
        SettingsError: librdkafka refuses an option.
    """
    seen: list[KafkaError] = []
    client = producer(settings, on_error=seen.append)
    try:
        client.list_topics(timeout=min(settings.timeout_s, LONGEST_CHECK_S))
    except KafkaException as error:
        client.poll(0)  # hands over what the connections have met, which says more than "no answer"
        raise _broker_error(settings, "cannot connect", _most_telling(seen, error.args[0])) from None


def partition_counts(settings: KafkaSettings) -> dict[str, int]:
    """Number of partitions of each topic that is there.

    Raises:
        BrokerError: no answer.
    """
    with broker_errors(settings, "cannot list topics"):
        return _partitions(_create(AdminClient, settings, {}, None), settings)


def ensure_topics(settings: KafkaSettings, names: Iterable[str]) -> None:
    """Create the topics that are absent and wait until the broker shows all of them.

    `kafka.partitions` and `kafka.replication` apply; the learner's topic has one partition, since holding
    that one is what makes a learner the active one.

    Raises:
        BrokerError: no answer, no permission, or the learner's topic has several partitions.
        SettingsError: librdkafka refuses an option.
    """
    wanted = list(dict.fromkeys(names))
    learner = Topics.of(settings.topic_prefix).learner
    deadline = time.monotonic() + settings.timeout_s
    admin = _create(AdminClient, settings, {}, None)
    with broker_errors(settings, "cannot create topics"):
        missing = set(wanted) - _partitions(admin, settings).keys()
        new = [
            NewTopic(
                name,
                num_partitions=1 if name == learner else settings.partitions,
                replication_factor=settings.replication,
            )
            for name in wanted
            if name in missing
        ]
        for future in (admin.create_topics(new, request_timeout=settings.timeout_s) if new else {}).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster: as good
                    raise
        while missing := set(wanted) - (shown := _partitions(admin, settings)).keys():
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{settings.bootstrap_servers} does not show the topic {min(missing)} within "
                    f"{settings.timeout_s:g} s of its creation: raise kafka.timeout_s or create it by hand"
                )
            time.sleep(0.02)
    if shown.get(learner, 1) != 1 and learner in wanted:
        raise BrokerError(
            f"the topic {learner} has {shown[learner]} partitions, so several learners would work at once: "
            "delete it, or choose another kafka.topic_prefix"
        )


@contextmanager
def broker_errors(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Turn Kafka's exceptions into BrokerError; `doing` says what failed, as in "cannot commit"."""
    try:
        yield
    except KafkaException as error:
        raise _broker_error(settings, doing, error.args[0]) from None


def explain(settings: KafkaSettings, doing: str, error: KafkaError) -> BrokerError:
    """The BrokerError for an error that Kafka reported without raising."""
    return _broker_error(settings, doing, error)


def _create(
    kind: Callable[..., Any],
    settings: KafkaSettings,
    own: dict[str, Any],
    on_error: Callable[[KafkaError], None] | None,
) -> Any:
    options = {name: _option(name, value) for name, value in settings.options.items()}
    config = {**_connection(settings), **own, **options, "error_cb": on_error or _log}
    try:
        return kind(config, logger=logger)
    except KafkaException as error:
        raise _settings_error(settings, error.args[0].str()) from None
    except (TypeError, ValueError) as error:
        raise _settings_error(settings, str(error)) from None


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "cifarctl",
        "security.protocol": settings.security_protocol,
        "reconnect.backoff.ms": 200,
        "reconnect.backoff.max.ms": 2000,  # the default of 10 s is a long time after a broker's return
    }
    if settings.security_protocol.startswith("SASL") and settings.sasl_mechanism is None:
        raise SettingsError(
            f"kafka.security_protocol = {settings.security_protocol} needs kafka.sasl_mechanism to be set"
        )
    if settings.sasl_mechanism is not None:
        config["sasl.mechanisms"] = settings.sasl_mechanism
    if settings.sasl_username is not None:
        config["sasl.username"] = settings.sasl_username
    if settings.sasl_password is not None:
        config["sasl.password"] = settings.sasl_password.get_secret_value()
    if settings.ssl_ca_location is not None:
        config["ssl.ca.location"] = str(settings.ssl_ca_location)
    return config


def _option(name: str, value: str | int | float | bool) -> str | int | float:
    if name in RESERVED:
        raise SettingsError(f"kafka.options.{name} cannot be changed: {RESERVED[name]}")
    return str(value).lower() if isinstance(value, bool) else value


def _settings_error(settings: KafkaSettings, message: str) -> SettingsError:
    """`message` is librdkafka's; it quotes names of options, but never the values of secrets."""
    found = re.search(r'"([a-z0-9_.]+)"|\b([a-z0-9_]+(?:\.[a-z0-9_]+)+)\b', message)
    name = (found.group(1) or found.group(2)) if found else None
    if name is None:
        return SettingsError(f"the Kafka client cannot be set up: {message}; check the kafka section")
    setting = NAMED.get(name, f"kafka.options.{name}") if name not in settings.options else f"kafka.options.{name}"
    return SettingsError(f"{setting} is not accepted: {message}; options are those of librdkafka's CONFIGURATION.md")


def _broker_error(settings: KafkaSettings, doing: str, error: KafkaError) -> BrokerError:
    address, code = settings.bootstrap_servers, error.code()
    if code in UNAUTHENTICATED:
        cause = f"{address} refuses the credentials ({error.str()})"
        remedy = "check kafka.security_protocol, kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password"
    elif code == KafkaError._SSL:
        cause = f"no TLS connection to {address} ({error.str()})"
        remedy = "check kafka.security_protocol and kafka.ssl_ca_location"
    elif code in FORBIDDEN:
        cause = f"{address} does not permit it ({error.str()})"
        remedy = f"grant the user access to the topics {settings.topic_prefix}.* and its consumer groups"
    elif code in UNREACHABLE:
        cause = f"no broker answers at {address} ({error.str()})"
        remedy = (
            "set kafka.bootstrap_servers (CIFARCTL_KAFKA__BOOTSTRAP_SERVERS), or start a broker: "
            "`cifarctl broker`, or `docker compose -f compose/kafka.yml up -d`"
        )
    else:
        cause = f"{address} answers {error.name()} ({error.str()})"
        remedy = "`cifarctl doctor` checks broker and topics"
    return BrokerError(" ".join(f"{doing}: {cause}; {remedy}".split()))


def _most_telling(seen: Iterable[KafkaError], otherwise: KafkaError) -> KafkaError:
    """A refused password or certificate rather than the silence that follows from it."""
    telling = [error for error in seen if error.code() in UNAUTHENTICATED | {KafkaError._SSL}]
    return telling[0] if telling else otherwise


def _partitions(admin: AdminClient, settings: KafkaSettings) -> dict[str, int]:
    """Number of partitions of each topic that is there."""
    topics = admin.list_topics(timeout=settings.timeout_s).topics
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None and topic.partitions}


def _log(error: KafkaError) -> None:
    logger.info("%s", error)
