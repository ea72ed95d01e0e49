"""Security settings on their way to the client, and Kafka's errors on their way to people; no broker is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

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
            "kafka.ssl_ca_location = absent.pem: there is no such file",
        ),
    ],
)
def test_security_that_lacks_a_part_or_has_no_effect_is_refused(values: dict[str, Any], told: str) -> None:
    assert told in refusal(**values)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
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
        (KafkaError.INVALID_REPLICATION_FACTOR, r"set kafka.replication \(7\) to no more than there are brokers"),
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
