"""Security settings on their way to the client, and Kafka's errors on their way to people; no broker is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from cifarctl.errors import SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection

NOBODY = "127.0.0.1:1"
SASL: dict[str, Any] = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"}
OAUTH: dict[str, Any] = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}


def settings_for(**values: Any) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=NOBODY, **values)


def refusal(**values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        clients.producer(settings_for(**values))
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"sasl_username": "me"},
            "kafka.sasl_username is set, but kafka.security_protocol = PLAINTEXT does not use it",
        ),
        ({"ssl_ca_location": Path("ca.pem")}, "set kafka.security_protocol to SSL or SASL_SSL"),
        ({"security_protocol": "SSL", "sasl_mechanism": "PLAIN"}, "to SASL_SSL or SASL_PLAINTEXT"),
        ({"security_protocol": "SASL_SSL"}, "kafka.security_protocol = SASL_SSL needs kafka.sasl_mechanism"),
        (SASL, "kafka.sasl_mechanism = SCRAM-SHA-512 needs kafka.sasl_username"),
        (SASL | {"sasl_username": "me"}, "kafka.sasl_mechanism = SCRAM-SHA-512 needs kafka.sasl_password"),
        (OAUTH, "kafka.sasl_mechanism = OAUTHBEARER needs kafka.sasl_oauth_token_endpoint"),
        (
            OAUTH | {"sasl_oauth_token_endpoint": "http://127.0.0.1:1/token", "sasl_oauth_client_id": "me"},
            "needs kafka.sasl_oauth_client_secret",
        ),
        ({"security_protocol": "SSL", "ssl_key_location": Path("key.pem")}, "go together: set both"),
        (
            {"security_protocol": "SSL", "ssl_ca_location": Path("absent.pem")},
            "absent.pem: there is no such file",
        ),
    ],
)
def test_security_that_lacks_a_part_or_has_no_effect_is_refused(values: dict[str, Any], told: str) -> None:
    assert told in refusal(**values)


def test_a_file_that_is_not_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    assert "kafka.ssl_ca_location is not accepted" in refusal(
        security_protocol="SSL", ssl_ca_location=tmp_path / "ca.pem"
    )


def test_what_a_mechanism_needs_may_be_among_the_options() -> None:
    options = {"sasl.username": "me", "sasl.password": "secret"}
    clients.producer(settings_for(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", options=options))
    unsecured = {"enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": "principal=me"}
    clients.producer(settings_for(**OAUTH, options=unsecured))


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("security.protocol", "set kafka.security_protocol"),
        ("group.instance.id", "set kafka.group_instance_id"),
        ("group.protocol", "set kafka.group_protocol"),
        ("partition.assignment.strategy", "set kafka.group_protocol"),
        ("transactional.id", "kafka.group_instance_id"),
        ("enable.idempotence", "set kafka.delivery"),
        ("acks", "min.insync.replicas"),
        ("isolation.level", "must not be read"),
        ("auto.offset.reset", "`cifarctl serve --from`"),
    ],
)
def test_what_delivery_rests_on_cannot_be_changed(option: str, instead: str) -> None:
    message = refusal(options={option: "1"})
    assert message.startswith(f"kafka.options.{option} cannot be changed: ")
    assert instead in message


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "does not permit it (.*); grant .* topics mine.*"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "grant the user Read on the groups ours"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional ids ours.* kafka.delivery = at-least-once"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "grant the user Write on the topics mine"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "answers UNKNOWN_TOPIC_OR_PART .*; create the topics mine"),
        (KafkaError.INVALID_REPLICATION_FACTOR, r"set kafka.replication \(7\) to at most the number of brokers"),
        (KafkaError.FENCED_INSTANCE_ID, r"another process has this kafka.group_instance_id \(replica-1\)"),
        (KafkaError.INVALID_SESSION_TIMEOUT, "set kafka.session_timeout_ms"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "refuses the credentials"),
        (KafkaError._RESOLVE, "no broker answers at 127.0.0.1:1 .*; set kafka.bootstrap_servers"),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "`cifarctl doctor`"),
    ],
)
def test_an_error_names_cause_and_remedy(code: int, told: str) -> None:
    settings = settings_for(topic_prefix="mine", group_id="ours", replication=7, group_instance_id="replica-1")
    message = str(connection.explain(settings, "cannot do it", KafkaError(code)))
    assert message.startswith(("cannot do it: 127.0.0.1:1 ", "cannot do it: no broker"))
    assert "\n" not in message
    assert re.search(told, message), message


def test_the_cause_is_told_rather_than_the_silence_that_follows_from_it() -> None:
    silence = KafkaError(KafkaError._TRANSPORT, "Failed to get metadata")
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    refused = KafkaError(KafkaError._TRANSPORT, "Connection refused")
    password = KafkaError(KafkaError._AUTHENTICATION)
    assert connection.most_telling([], silence) is silence
    assert connection.most_telling([down], silence) is down
    assert connection.most_telling([down, refused], silence) is refused
    assert connection.most_telling([down, refused, password], silence) is password


def test_the_state_of_a_connection_and_numbers_of_openssl_are_left_out() -> None:
    error = KafkaError(
        KafkaError._SSL,
        "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed (after 4ms in state UP)",
    )
    message = str(connection.explain(settings_for(), "cannot connect", error))
    assert "(SSL handshake failed: certificate verify failed)" in message


def both(**values: Any) -> None:
    """Clients of each kind under these settings, as commands make them."""
    settings = settings_for(**values)
    clients.producer(settings)
    clients.producer(settings, idempotent=True, **{"message.timeout.ms": 0})
    clients.producer(settings, transactional_id="t", **{"batch.size": 500_000})
    connection.create(AdminClient, settings, {}, None)
    for protocol in ("classic", "consumer"):
        member = clients.group_options(settings.model_copy(update={"group_protocol": protocol}))
        clients.consumer(settings, "g", **member).close()
    clients.consumer(settings, "g").close()


@pytest.mark.parametrize(
    "options",
    [
        {"max.poll.interval.ms": 6000},
        {"max.poll.interval.ms": "45001"},
        {"message.max.bytes": 5000},
        {"message.max.bytes": 90_000_000},
        {"batch.size": 1},
        {"linger.ms": 5000},
        {"fetch.max.bytes": 2000},
        {"receive.message.max.bytes": 1_000_000},
        {"fetch.wait.max.ms": 5000},
        {"queued.max.messages.kbytes": 1},
        {"queue.buffering.max.kbytes": 100},
        {"transaction.timeout.ms": 60_000},
        {"transaction.timeout.ms": 1000},
        {"socket.timeout.ms": 30_000},
        {"message.timeout.ms": 60_000},
        {"delivery.timeout.ms": 1},
        {"message.timeout.ms": 0},
        {"max.in.flight": 10},
        {"reconnect.backoff.ms": 5000},
        {"reconnect.backoff.max.ms": 100},
        {"enable.gapless.guarantee": True},
        {"compression.type": "gzip"},
    ],
    ids=lambda options: "-".join(map(str, *options.items())),
)
def test_a_legal_option_works_for_every_client(options: dict[str, Any]) -> None:
    both(options=options)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"options": {"max.poll.interval.ms": 5000}},
            "kafka.options.max.poll.interval.ms = 5000 must be at least kafka.session_timeout_ms = 6000",
        ),
        (
            {"options": {"max.poll.interval.ms": 9000, "session.timeout.ms": 10_000}},
            "kafka.options.max.poll.interval.ms = 9000 must be at least kafka.options.session.timeout.ms = 10000",
        ),
        (
            {"options": {"session.timeout.ms": 10_000}},
            "kafka.options.session.timeout.ms = 10000 cannot be set with the group protocol consumer, where the broker "
            "sets it: remove it, or set kafka.group_protocol = classic",
        ),
        (
            {"options": {"linger.ms": 10_000}},
            "kafka.options.linger.ms = 10000 must be less than kafka.options.transaction.timeout.ms = 10000",
        ),
        (
            {"options": {"linger.ms": 50, "message.timeout.ms": 50}},
            "kafka.options.linger.ms = 50 must be less than kafka.options.message.timeout.ms = 50",
        ),
        (
            {"options": {"fetch.max.bytes": 2000, "receive.message.max.bytes": 2000}},
            "kafka.options.fetch.max.bytes = 2000 must be at least 512 less than kafka.options.receive.message",
        ),
        ({"options": {"receive.message.max.bytes": 1000}}, "receive.message.max.bytes = 1000 leaves no room"),
        (
            {"options": {"reconnect.backoff.ms": 500, "reconnect.backoff.max.ms": 100}},
            "kafka.options.reconnect.backoff.ms = 500 must be at most kafka.options.reconnect.backoff.max.ms = 100",
        ),
        ({"options": {"retries": 0}}, "kafka.options.retries is not accepted: .*which delivery rests on"),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        both(**values)
    assert re.search(told, str(caught.value)), str(caught.value)
