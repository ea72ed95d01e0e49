"""How clients connect: librdkafka's options from the settings, and the one place where Kafka's errors become ours."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from pydantic import SecretStr

from cifarctl.errors import BrokerAway, BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import options

T = TypeVar("T")

RETRY_S = 0.1  # between two attempts at a call that fails for a transient reason

logger = logging.getLogger("cifarctl.kafka")
logger.addHandler(logging.NullHandler())  # else Python prints the clients' warnings to stderr

#: The delivery guarantees rest on these: changing one would lose or duplicate messages silently.
RESERVED = {
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "security.protocol": "set kafka.security_protocol",
    "group.id": "set kafka.group_id",
    "group.instance.id": "set kafka.group_instance_id",
    "group.protocol": "set kafka.group_protocol",
    "partition.assignment.strategy": "set kafka.group_protocol",
    "transactional.id": "each replica needs its own; kafka.group_instance_id gives this one a permanent name",
    "enable.idempotence": "set kafka.delivery",
    "acks": "every in-sync replica must have an answer; set min.insync.replicas on the topics",
    "request.required.acks": "every in-sync replica must have an answer; set min.insync.replicas on the topics",
    "isolation.level": "uncommitted messages must not be read",
    "auto.offset.reset": "use `cifarctl serve --from`",
    "topic.auto.offset.reset": "use `cifarctl serve --from`",
    "auto.commit.enable": "offsets are committed after the predictions are acknowledged",
    "enable.auto.commit": "offsets are committed after the predictions are acknowledged",
    "enable.auto.offset.store": "offsets are committed after the predictions are acknowledged",
    "enable.partition.eof": "the end of a partition must be noticed",
    "delivery.report.only.error": "failed deliveries must be noticed",
    "error_cb": "errors of the connection must be noticed",
    "logger": "the client logs to cifarctl.kafka",
}
#: librdkafka options that have a setting of their own.
NAMED = {
    "sasl.mechanism": "kafka.sasl_mechanism",
    "sasl.mechanisms": "kafka.sasl_mechanism",
    "sasl.username": "kafka.sasl_username",
    "sasl.password": "kafka.sasl_password",
    "sasl.oauthbearer.token.endpoint.url": "kafka.sasl_oauth_token_endpoint",
    "sasl.oauthbearer.client.id": "kafka.sasl_oauth_client_id",
    "sasl.oauthbearer.client.secret": "kafka.sasl_oauth_client_secret",
    "sasl.oauthbearer.scope": "kafka.sasl_oauth_scope",
    "ssl.ca.location": "kafka.ssl_ca_location",
    "ssl.certificate.location": "kafka.ssl_certificate_location",
    "ssl.key.location": "kafka.ssl_key_location",
    "ssl.key.password": "kafka.ssl_key_password",
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
#: The group or the partition has no coordinator or leader at the moment; the same call may succeed later.
TRANSIENT = UNREACHABLE | {
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._IN_PROGRESS,
}
#: A partition that has just been added, or a broker that has just come back and knows no topics yet.
UNKNOWN_YET = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
UNAUTHENTICATED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
#: Remedies by error code; the braces are fields of KafkaSettings.
REMEDIES = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "grant the user Describe, Read and Write on the topics {topic_prefix}.*, and Create or kafka.create_topics = "
        "false"
    ),
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant the user Read on the groups {group_id}*, or set kafka.group_id",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "grant the user Describe and Write on the transactional ids {group_id}*, or set kafka.delivery = at-least-once"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (
        "grant the user Write on the topics {topic_prefix}.* (before Kafka 2.8 also IdempotentWrite on the cluster), "
        "and Create or kafka.create_topics = false"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topics {topic_prefix}.*, or set kafka.create_topics = true",
    KafkaError._UNKNOWN_TOPIC: "create the topics {topic_prefix}.*, or set kafka.create_topics = true",
    KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication ({replication}) to at most the number of brokers",
    KafkaError.POLICY_VIOLATION: "create the topics {topic_prefix}.* manually and set kafka.create_topics = false",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: (
        "members of the group {group_id} use another group protocol: stop them, or set kafka.group_protocol or "
        "kafka.group_id"
    ),
    KafkaError.FENCED_INSTANCE_ID: (
        "another process has this kafka.group_instance_id ({group_instance_id}): give each replica its own"
    ),
    KafkaError.UNRELEASED_INSTANCE_ID: (
        "another process has this kafka.group_instance_id ({group_instance_id}): stop it or wait for its session to end"
    ),
    KafkaError.INVALID_SESSION_TIMEOUT: (
        "set kafka.session_timeout_ms within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms"
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "set kafka.options.transaction.timeout.ms to no more than the broker's transaction.max.timeout.ms"
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: "raise the topic's max.message.bytes and kafka.options.message.max.bytes",
}
_GONE = (
    "it does not exist",
    "if it was deleted, start again: cifarctl creates {topic} if kafka.create_topics is true; else create it",
)
_TOO_LARGE = (
    "a message is too large for it",
    "raise max.message.bytes of {topic}, and kafka.options.message.max.bytes",
)
#: The topic does not exist, or no longer.
GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
#: Cause and remedy for errors about one known topic.
OF_TOPIC = {
    **dict.fromkeys(GONE, _GONE),
    KafkaError.MSG_SIZE_TOO_LARGE: _TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: _TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "the user may not write to it",
        "grant the user Describe and Write on the topic {topic}",
    ),
    KafkaError.INVALID_RECORD: (
        "it does not accept this message",
        "a compacted topic accepts only messages with a key: send one; for any other reason why {topic} refuses it, "
        "see the broker's log",
    ),
}
#: TLS alerts with which a broker rejects a client's certificate (RFC 8446, section 6.2).
CERTIFICATE_ALERTS = re.compile(r"alert (bad certificate|unsupported certificate|certificate|unknown ca|access denied)")
#: No handshake: the listener does not speak TLS.
HUNG_UP = re.compile(r"closed by peer.* in state SSL_HANDSHAKE")
#: The protocols that use each family of settings.
PROTOCOLS = {"SASL": ("SASL_SSL", "SASL_PLAINTEXT"), "SSL": ("SSL", "SASL_SSL")}
#: Settings that the mechanisms need, unless given in kafka.options.
PASSWORD = ("sasl_username", "sasl_password")
CLIENT_CREDENTIALS = ("sasl_oauth_token_endpoint", "sasl_oauth_client_id", "sasl_oauth_client_secret")


def create(
    kind: Callable[..., Any],
    settings: KafkaSettings,
    own: dict[str, Any],
    on_error: Callable[[KafkaError], None] | None,
) -> Any:
    """A client of `kind` with the connection's options and `own`, both overridden by ``kafka.options``.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    for name in settings.options:
        if name in RESERVED:
            raise SettingsError(f"kafka.options.{name} cannot be changed: {RESERVED[name]}")
    role = "producer" if kind is Producer else "consumer" if kind is Consumer else "admin"
    config = {**options.merged(settings, {**_connection(settings), **own}, role), "error_cb": on_error or _log}
    try:
        return kind(config, logger=logger)
    except KafkaException as error:
        raise _settings_error(settings, error.args[0].str()) from None
    except (TypeError, ValueError) as error:
        raise _settings_error(settings, str(error)) from None


@contextmanager
def broker_errors(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Turn Kafka's exceptions into BrokerError; `doing` says what failed, for example "cannot commit"."""
    try:
        yield
    except KafkaException as error:
        raise _broker_error(settings, doing, error.args[0]) from None


def patiently(call: Callable[[], T], timeout_s: float) -> T:
    """Repeat a call for `timeout_s` seconds while it fails for transient reasons, such as a change of leaders.

    Raises:
        KafkaException: it fails for good, or for too long.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except KafkaException as error:
            if error.args[0].code() not in TRANSIENT or time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_S)


def explain(settings: KafkaSettings, doing: str, error: KafkaError, topic: str | None = None) -> BrokerError:
    """The BrokerError for an error that Kafka reported without raising; `topic` if it is about one."""
    return _broker_error(settings, doing, error, topic)


def most_telling(seen: Iterable[KafkaError], otherwise: KafkaError) -> KafkaError:
    """The most telling of the connection errors `seen`: the cause rather than the silence that follows from it.

    A refused password or certificate, else a failed connection, else connections that broke; `otherwise` if none of
    these was seen.
    """
    met = list(seen)
    for telling in (
        UNAUTHENTICATED | {KafkaError._SSL},
        {KafkaError._TRANSPORT, KafkaError._RESOLVE},
        {KafkaError._ALL_BROKERS_DOWN},
    ):
        for error in met:
            if error.code() in telling:
                return error
    return otherwise


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    """Address and security.

    Raises:
        SettingsError: the settings contradict each other, or a file does not exist.
    """
    _require_whole(settings)
    named: dict[str, str | Path | SecretStr | None] = {
        "sasl.mechanisms": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password,
        "sasl.oauthbearer.method": "oidc" if settings.sasl_oauth_token_endpoint is not None else None,
        "sasl.oauthbearer.token.endpoint.url": settings.sasl_oauth_token_endpoint,
        "sasl.oauthbearer.client.id": settings.sasl_oauth_client_id,
        "sasl.oauthbearer.client.secret": settings.sasl_oauth_client_secret,
        "sasl.oauthbearer.scope": settings.sasl_oauth_scope,
        "ssl.ca.location": settings.ssl_ca_location,
        "ssl.certificate.location": settings.ssl_certificate_location,
        "ssl.key.location": settings.ssl_key_location,
        "ssl.key.password": settings.ssl_key_password,
    }
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "cifarctl",
        "security.protocol": settings.security_protocol,
        "reconnect.backoff.ms": 200,
        "reconnect.backoff.max.ms": 2000,  # the default of 10 s is long after a broker's return
        **{name: _plain(value) for name, value in named.items() if value is not None},
    }


def _plain(value: str | Path | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _require_whole(settings: KafkaSettings) -> None:
    """Refuse security settings that would have no effect or are incomplete.

    Raises:
        SettingsError: names the setting that is unused or missing.
    """
    protocol, mechanism = settings.security_protocol, settings.sasl_mechanism
    given = [name for name, value in settings if value is not None]
    for family, protocols in PROTOCOLS.items():
        unused = [name for name in given if name.startswith(f"{family.lower()}_")]
        if unused and family not in protocol:
            raise SettingsError(
                f"kafka.{unused[0]} is set, but kafka.security_protocol = {protocol} does not use it: "
                f"set kafka.security_protocol to {' or '.join(protocols)}"
            )
    if "SASL" in protocol:
        if mechanism is None:
            raise SettingsError(f"kafka.security_protocol = {protocol} needs kafka.sasl_mechanism to be set")
        oauth = mechanism == "OAUTHBEARER"
        elsewhere = "oauthbearer" if oauth else "sasl."  # librdkafka has further ways to get a token
        for name in CLIENT_CREDENTIALS if oauth else PASSWORD:
            if name not in given and not any(elsewhere in option for option in settings.options):
                raise SettingsError(f"kafka.sasl_mechanism = {mechanism} needs kafka.{name} to be set")
    if ("ssl_certificate_location" in given) != ("ssl_key_location" in given) and not any(
        option.startswith("ssl.") for option in settings.options
    ):
        raise SettingsError("kafka.ssl_certificate_location and kafka.ssl_key_location go together: set both")
    for name in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location"):
        file = getattr(settings, name)
        if file is not None and not file.exists():
            raise SettingsError(f"kafka.{name} = {file.absolute()}: there is no such file")


def _settings_error(settings: KafkaSettings, message: str) -> SettingsError:
    """`message` is librdkafka's; it quotes option names, but never the values of secrets."""
    found = re.search(r'["`]([a-z0-9_.]+)["`]|\b([a-z0-9_]+(?:\.[a-z0-9_]+)+)\b', message)
    name = (found.group(1) or found.group(2)) if found else None
    if name is None:
        return SettingsError(f"the Kafka client cannot be set up: {message}; check the kafka section")
    if name == "ssl.key.location":
        message = f"{message}; an encrypted key needs kafka.ssl_key_password"
    message = message.replace("`enable.idempotence` is true", "`enable.idempotence` is true, which delivery rests on")
    setting = NAMED.get(name, f"kafka.options.{name}") if name not in settings.options else f"kafka.options.{name}"
    return SettingsError(f"{setting} is not accepted: {message}; see librdkafka's CONFIGURATION.md for the options")


def _broker_error(settings: KafkaSettings, doing: str, error: KafkaError, topic: str | None = None) -> BrokerError:
    address, code, protocol, words = settings.bootstrap_servers, error.code(), settings.security_protocol, _words(error)
    if "OAUTHBEARER token" in words:
        cause = f"{settings.sasl_oauth_token_endpoint} issues no token ({words})"
        remedy = f"check {', '.join(f'kafka.{name}' for name in CLIENT_CREDENTIALS)} and kafka.sasl_oauth_scope"
    elif code in UNAUTHENTICATED:
        cause = f"{address} refuses the credentials ({words})"
        secrets = CLIENT_CREDENTIALS if settings.sasl_mechanism == "OAUTHBEARER" else PASSWORD
        names = ", ".join(f"kafka.{name}" for name in ("security_protocol", "sasl_mechanism", *secrets))
        remedy = f"check {names}"
    elif CERTIFICATE_ALERTS.search(words):
        cause = f"{address} rejects the client's certificate, or requires one ({words})"
        remedy = (
            "set kafka.ssl_certificate_location and kafka.ssl_key_location to those of a client that it trusts, or "
            "kafka.bootstrap_servers to a listener that requires none"
        )
    elif code == KafkaError._SSL:
        cause = f"no TLS connection to {address} ({words})"
        remedy = (
            "set kafka.ssl_ca_location to the CA that signed the broker's certificate, and use the host name in that "
            "certificate in kafka.bootstrap_servers"
        )
    elif code in FORBIDDEN:
        cause = f"{address} does not permit it ({words})"
        remedy = REMEDIES[code]
    elif code == KafkaError._ALL_BROKERS_DOWN or HUNG_UP.search(error.str()):
        cause = f"the listener at {address} closes {protocol} connections"
        remedy = "set kafka.security_protocol to its protocol, or kafka.bootstrap_servers to another listener"
    elif code in UNREACHABLE:
        cause = f"no broker answers at {address} ({words})"
        remedy = (
            "set kafka.bootstrap_servers (CIFARCTL_KAFKA__BOOTSTRAP_SERVERS), or start a broker: "
            "`cifarctl broker`, or `docker compose -f compose/kafka.yml up -d`"
        )
    else:
        cause = f"{address} answers {error.name()} ({words})"
        remedy = REMEDIES.get(code, "run `cifarctl doctor` to check broker and topics")
    if topic is not None and code in OF_TOPIC:
        cause, remedy = OF_TOPIC[code]
        cause = f"{address} reports about the topic {topic} that {cause} ({words})"
        remedy = remedy.format(topic=topic)
    elif code in REMEDIES:
        remedy = remedy.format_map(dict(settings))
    kind = BrokerAway if code in UNREACHABLE else BrokerError
    return kind(" ".join(f"{doing}: {cause}; {remedy}".split()))


def _words(error: KafkaError) -> str:
    """librdkafka's message without the connection's state and OpenSSL's numbers."""
    return re.sub(r" \(after \d+ms in state \w+\)|error:[0-9A-F]{8}:SSL routines::", "", error.str())


def _log(error: KafkaError) -> None:
    logger.info("%s", error)
