"""Signing in to a real Kafka, being refused by it, and being told what to do about that."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apache_kafka import HOST
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from fixtures_kafka import SecureKafka, own_settings
from helpers import Home, cifarctl
from kafka_security import BOB, KEY_PASSWORD, PASSWORDS
from processes import Process

from cifarctl.errors import SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics

COMMANDS = {
    "produce": ("produce", "--count", "5", "--rate", "0"),
    "serve": ("serve", "--max-messages", "5"),
    "retrain": ("retrain", "--follow"),
    "doctor": ("doctor",),
}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "mTLS")
LIMIT_S = 10.0  # until an error is told, the start of Python and its imports aside
HASTE = {"timeout_s": 2.0}

Changes = Callable[[SecureKafka], dict[str, Any]]


class Commands:
    """Commands on a registry of this test's own, as the user that `settings` signs in."""

    def __init__(self, home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home, self._folder, self._monkeypatch = home, folder, monkeypatch

    def run(self, name: str, settings: KafkaSettings) -> tuple[int, str]:
        """Exit code and the line of error, or what doctor has found, or the JSON result."""
        for variable, value in environment(settings).items():
            self._monkeypatch.setenv(variable, value)
        result = cifarctl(*COMMANDS[name], "--json", *self._home.options)
        for secret in (*PASSWORDS.values(), KEY_PASSWORD):
            assert secret not in result.stdout + result.stderr
        if name == "doctor" or not result.exit_code:
            return result.exit_code, result.stdout
        lines = [line for line in result.stderr.splitlines() if line.startswith("cifarctl: ")]
        assert result.stderr.splitlines()[-1:] == lines, result.stderr
        return result.exit_code, lines[0]

    def refused(self, name: str, settings: KafkaSettings) -> str:
        """The line that tells of a refusal, in time."""
        began = time.monotonic()
        code, said = self.run(name, settings)
        assert code == 5, said
        assert time.monotonic() - began < LIMIT_S
        if name == "doctor":
            said = next(check["finding"] for check in json.loads(said) if not check["ok"])
        assert "\n" not in said.strip()
        return said

    def learn_and_stop(self, settings: KafkaSettings) -> None:
        """Run the learner as a process until it works, and tell it to stop."""
        options = [option.removeprefix("--set=").split("=", 1) for option in self._home.options]
        given = {f"CIFARCTL_{name.upper().replace('.', '__')}": value for name, value in options}
        learner = Process(COMMANDS["retrain"], given | environment(settings), self._folder, "retrain")
        try:
            learner.until(lambda: "learner started" in learner.out)
            learner.signal(signal.SIGTERM)
            assert learner.wait() == 0, learner.err
        finally:
            learner.clean_up()


def environment(settings: KafkaSettings) -> dict[str, str]:
    """Variables for what differs from the defaults, secrets and all."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    plain = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value for name, value in given.items()
    }
    return {
        f"CIFARCTL_KAFKA__{name.upper()}": json.dumps(value) if isinstance(value, dict | bool) else str(value)
        for name, value in plain.items()
    }


@pytest.fixture
def commands(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(home, tmp_path, monkeypatch)


# --- who may come in


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_signing_in(commands: Commands, secure_kafka: SecureKafka, mechanism: str) -> None:
    settings = own_settings(secure_kafka.kafka, **secure_kafka.security.sign_in(mechanism))
    code, said = commands.run("produce", settings)
    assert code == 0, said
    assert json.loads(said)["sent"] == 5
    code, said = commands.run("serve", settings)
    assert code == 0, said
    assert json.loads(said)["predicted"] == 5
    code, said = commands.run("doctor", settings)
    assert code == 0, said
    found = {check["check"]: check["finding"] for check in json.loads(said)}
    assert "may do what produce, serve and retrain need" in found["credentials"]
    assert f"{settings.topic_prefix}.images: 3 partitions" in found["topics"]


def test_a_locked_key_is_opened(secure_kafka: SecureKafka) -> None:
    locked = {"ssl_key_location": secure_kafka.security.locked_key, "ssl_key_password": KEY_PASSWORD}
    clients.check(own_settings(secure_kafka.kafka, **secure_kafka.security.sign_in("mTLS") | locked))
    wrong = own_settings(
        secure_kafka.kafka, **secure_kafka.security.sign_in("mTLS") | locked | {"ssl_key_password": "wrong"}
    )
    with pytest.raises(SettingsError, match=r"kafka\.ssl_key_location is not accepted: .*kafka\.ssl_key_password"):
        clients.check(wrong)


def test_the_learner_signs_in_and_stops_in_order(commands: Commands, secure_kafka: SecureKafka) -> None:
    sign_in = secure_kafka.security.sign_in("SCRAM-SHA-512")
    commands.learn_and_stop(own_settings(secure_kafka.kafka, **sign_in))


def changed(how: str, **changes: Any) -> Changes:
    return lambda site: site.security.sign_in(how) | changes


REFUSALS: dict[str, tuple[Changes, str]] = {
    "wrong password (PLAIN)": (
        changed("PLAIN", sasl_password="wrong"),
        "refuses the credentials .*kafka.sasl_password",
    ),
    "wrong password (SCRAM)": (
        changed("SCRAM-SHA-512", sasl_password="wrong"),
        "refuses the credentials .*kafka.sasl_username, kafka.sasl_password",
    ),
    "wrong client secret": (
        changed("OAUTHBEARER", sasl_oauth_client_secret="wrong"),
        "/token issues no token .*invalid_client.* kafka.sasl_oauth_client_secret",
    ),
    "no such token endpoint": (
        changed("OAUTHBEARER", sasl_oauth_token_endpoint=f"http://{HOST}:1/token"),
        f"{HOST}:1/token issues no token .*check kafka.sasl_oauth_token_endpoint",
    ),
    "untrusted certificate": (
        lambda site: site.security.sign_in("PLAIN") | {"ssl_ca_location": site.security.strange_ca},
        "no TLS connection .*set kafka.ssl_ca_location to the CA that signed",
    ),
    "another host's certificate": (
        lambda site: site.security.sign_in("PLAIN") | {"bootstrap_servers": site.security.address("MISNAMED")},
        "no TLS connection .*use the host name in that certificate",
    ),
    "no client certificate": (
        lambda site: {
            "bootstrap_servers": site.security.address("MTLS"),
            "security_protocol": "SSL",
            "ssl_ca_location": site.security.ca,
        },
        "rejects the client's certificate.*set kafka.ssl_certificate_location and kafka.ssl_key_location",
    ),
    "TLS to a plaintext port": (
        lambda site: site.security.sign_in("mTLS") | {"bootstrap_servers": site.kafka.address()},
        "closes SSL connections; set kafka.security_protocol",
    ),
    "plaintext to a TLS port": (
        lambda site: {"bootstrap_servers": site.security.address("SASL")},
        "closes PLAINTEXT connections; set kafka.security_protocol",
    ),
    "wrong port": (
        lambda site: {"bootstrap_servers": f"{HOST}:1"},
        rf"no broker answers at {HOST}:1 \(.*Connection refused\); set kafka.bootstrap_servers",
    ),
    "no such host": (
        lambda site: {"bootstrap_servers": "nowhere.invalid:9092"},
        r"no broker answers at nowhere.invalid:9092 \(.*resolve.*\); set kafka.bootstrap_servers",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_one_line(commands: Commands, secure_kafka: SecureKafka, command: str, refusal: str) -> None:
    changes, words = REFUSALS[refusal]
    message = commands.refused(command, own_settings(secure_kafka.kafka, **HASTE | changes(secure_kafka)))
    assert_told(message, words)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_is_told_in_time_by_default(commands: Commands, secure_kafka: SecureKafka, command: str) -> None:
    commands.refused(command, own_settings(secure_kafka.kafka, **REFUSALS["wrong password (PLAIN)"][0](secure_kafka)))


def test_no_log_line_tells_a_secret(secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cifarctl.kafka")
    for mechanism in ("PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"):
        sign_in = secure_kafka.security.sign_in(mechanism)
        client = clients.producer(own_settings(secure_kafka.kafka, **sign_in, options={"debug": "all"}))
        client.list_topics(timeout=10)
        client.poll(0)  # hands over what the client has logged
    assert caplog.records
    for password in PASSWORDS.values():
        assert password not in caplog.text


# --- what may be done

Right = tuple[ResourceType, str, AclOperation]


class Grants:
    """What Bob may do under a prefix of his own; nothing until `allow` says so."""

    def __init__(self, secure_kafka: SecureKafka) -> None:
        self.settings = own_settings(secure_kafka.kafka, **secure_kafka.security.sign_in("SCRAM-SHA-512", BOB), **HASTE)
        self._secure = secure_kafka
        self._admin = AdminClient({"bootstrap.servers": secure_kafka.kafka.bootstrap_servers, "log_level": 0})

    def allow(self, *rights: Right) -> None:
        bindings = [
            AclBinding(kind, name, ResourcePatternType.PREFIXED, f"User:{BOB}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, operation in rights
        ]
        for done in self._admin.create_acls(bindings).values():
            done.result(30)

    def all(self) -> list[Right]:
        """What produce, serve and retrain need."""
        prefix = self.settings.topic_prefix
        topics = (AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.READ, AclOperation.WRITE)
        return [
            *((ResourceType.TOPIC, f"{prefix}.", operation) for operation in topics),
            (ResourceType.GROUP, prefix, AclOperation.READ),
            (ResourceType.TRANSACTIONAL_ID, prefix, AclOperation.DESCRIBE),
            (ResourceType.TRANSACTIONAL_ID, prefix, AclOperation.WRITE),
        ]

    def make_topics(self) -> None:
        clients.ensure_topics(self.superuser, vars(Topics.of(self.settings.topic_prefix)).values())

    @property
    def superuser(self) -> KafkaSettings:
        """The same topics and group with every right."""
        names = {"topic_prefix": self.settings.topic_prefix, "group_id": self.settings.group_id}
        return KafkaSettings(bootstrap_servers=self._secure.kafka.bootstrap_servers, **names)


@pytest.fixture
def grants(secure_kafka: SecureKafka) -> Grants:
    return Grants(secure_kafka)


def test_the_rights_that_are_asked_for_suffice(commands: Commands, grants: Grants) -> None:
    grants.allow(*grants.all())
    for name in ("produce", "serve", "doctor"):
        code, said = commands.run(name, grants.settings)
        assert code == 0, said
    commands.learn_and_stop(grants.settings)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_any_right(commands: Commands, grants: Grants, command: str) -> None:
    grants.make_topics()
    assert_told(commands.refused(command, grants.settings), "does not permit .*grant")


LACKS: dict[str, tuple[Callable[[Right], bool], dict[str, str]]] = {
    "write on images": (
        lambda right: right[0] is ResourceType.TOPIC and right[2] is AclOperation.WRITE,
        {
            "produce": r"does not permit Write on the topic \S+\.images; grant the user these rights",
            "serve": r"does not permit Write on the topic \S+\.predictions, Write on the topic \S+\.dead-letters;",
            "retrain": r"does not permit Write on the topic \S+\.learner; grant",
            "doctor": "Write on the topic .*images",
        },
    ),
    "read on topics": (
        lambda right: right[0] is ResourceType.TOPIC and right[2] is AclOperation.READ,
        {
            "serve": r"does not permit Read on the topic \S+\.images; grant the user these rights",
            "retrain": r"does not permit Read on the topic \S+\.learner; grant",
            "doctor": "Read on the topic .*images",
        },
    ),
    "groups": (
        lambda right: right[0] is ResourceType.GROUP,
        {
            "serve": "Group authorization failed.*grant the user Read on the groups",
            "retrain": "Group authorization failed.*grant the user Read on the groups",
            "doctor": "Read on the group",
        },
    ),
    "transactional ids": (
        lambda right: right[0] is ResourceType.TRANSACTIONAL_ID,
        {"serve": "transactional ids"},
    ),
}


@pytest.mark.parametrize(
    ("lack", "command"), [(lack, command) for lack, (_, told) in LACKS.items() for command in told]
)
def test_a_missing_right_is_named(commands: Commands, grants: Grants, lack: str, command: str) -> None:
    taken, told = LACKS[lack]
    grants.make_topics()
    grants.allow(*(right for right in grants.all() if not taken(right)))
    assert commands.run("produce", grants.superuser)[0] == 0  # so that serve has something to answer
    message = commands.refused(command, grants.settings)
    assert_told(message, told[command])


NEEDED = {
    "produce": {"images": "Describe and Write", "labels": "Describe and Write"},
    "serve": {
        "images": "Describe and Read",
        "predictions": "Describe and Write",
        "dead_letters": "Describe and Write",
    },
    "retrain": {
        "images": "Describe and Read",
        "labels": "Describe and Read",
        "dead_letters": "Describe and Write",
        "predictions": "Describe and Read",
        "learner": "Describe, Read and Write",
    },
    "list": {"dead_letters": "Describe and Read"},
    "replay": {"dead_letters": "Describe, Read and Write"},
}
COMMANDS_OF_TOPICS = COMMANDS | {
    "produce": ("produce", "--count", "5", "--rate", "0", "--label-delay", "0.1"),
    "list": ("dead-letters", "list"),
    "replay": ("dead-letters", "replay", "--all"),
}


@pytest.mark.parametrize(
    ("command", "topic"), [(command, topic) for command, needs in NEEDED.items() for topic in needs]
)
def test_no_right_at_all_on_a_topic_that_is_there(
    commands: Commands, grants: Grants, command: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker hides that topic; the right to create it is granted, and of no use."""
    monkeypatch.setitem(COMMANDS, command, COMMANDS_OF_TOPICS[command])
    grants.make_topics()
    hidden = getattr(Topics.of(grants.settings.topic_prefix), topic)
    grants.allow(*(right for right in grants.all() if right[0] is not ResourceType.TOPIC))
    others = [name for name in vars(Topics.of(grants.settings.topic_prefix)).values() if name != hidden]
    everything = [right[2] for right in grants.all() if right[0] is ResourceType.TOPIC]
    grants.allow(*((ResourceType.TOPIC, name, operation) for name in others for operation in everything))
    grants.allow((ResourceType.TOPIC, hidden, AclOperation.CREATE))
    message = commands.refused(command, grants.settings)
    assert_told(message, rf"does not permit {NEEDED[command][topic]} on the topic {re.escape(hidden)}; grant the user")


def test_labels_that_may_not_be_read_are_told(commands: Commands, grants: Grants) -> None:
    """They are of use to serve, and not needed."""
    grants.make_topics()
    labels = Topics.of(grants.settings.topic_prefix).labels
    for kind, name, operation in grants.all():
        if kind is ResourceType.TOPIC:
            others = [topic for topic in vars(Topics.of(grants.settings.topic_prefix)).values() if topic != labels]
            grants.allow(*((kind, topic, operation) for topic in others))
        else:
            grants.allow((kind, name, operation))
    assert commands.run("produce", grants.superuser)[0] == 0
    for variable, value in environment(grants.settings).items():
        commands._monkeypatch.setenv(variable, value)
    result = cifarctl("serve", "--max-messages", "5", *commands._home.options)
    assert result.exit_code == 0, result.stderr
    assert f"does not permit Describe and Read on the topic {labels}" in result.stdout + result.stderr


# --- topics that are not there


@pytest.mark.parametrize("command", COMMANDS)
def test_absent_topics_that_may_not_be_made(commands: Commands, secure_kafka: SecureKafka, command: str) -> None:
    settings = own_settings(secure_kafka.kafka, create_topics=False)
    message = commands.refused(command, settings)
    assert_told(message, rf"{settings.topic_prefix}\.\S+.*kafka.create_topics")


@pytest.mark.parametrize("command", COMMANDS)
def test_absent_topics_that_the_user_may_not_make(commands: Commands, grants: Grants, command: str) -> None:
    grants.allow(*(right for right in grants.all() if right[2] is not AclOperation.CREATE))
    if command == "doctor":  # asks, and changes nothing: whether it could, only an attempt can tell
        assert commands.run(command, grants.settings)[0] == 0
        return
    assert_told(commands.refused(command, grants.settings), "cannot create topics: .*kafka.create_topics = false")


def assert_told(message: str, words: str) -> None:
    assert re.search(words, message), message
