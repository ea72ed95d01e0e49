"""Clients and their options, without a broker."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streams import settings_for

from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients


def silent_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ask", [clients.check, lambda given: clients.ensure_topics(given, ["t"])])
def test_no_broker_names_address_setting_and_remedy(ask: Callable[[KafkaSettings], None]) -> None:
    address = f"127.0.0.1:{silent_port()}"
    with pytest.raises(BrokerError) as caught:
        ask(settings_for(address, timeout_s=0.3))
    message = str(caught.value)
    for part in (
        address,
        "kafka.bootstrap_servers",
        "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS",
        "cifarctl broker",
        "compose",
    ):
        assert part in message
    assert "\n" not in message


def test_client_logs_do_not_reach_stderr(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cifarctl.kafka")
    with pytest.raises(BrokerError):
        clients.check(settings_for(f"127.0.0.1:{silent_port()}", timeout_s=0.3))
    assert capfd.readouterr().err == ""
    assert any(entry.name == "cifarctl.kafka" for entry in caplog.records)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"foo.bar": 1}, r"kafka\.options\.foo\.bar"),
        ({"acks": "many"}, r"kafka\.options\.\S*acks"),
        ({"error_cb": "x"}, r"kafka\.options\.error_cb"),
        ({"linger.ms": "soon"}, r"kafka\.options\."),
        ({"enable.auto.commit": True}, r"kafka\.options\.enable\.auto\.commit cannot be changed"),
        ({"bootstrap.servers": "a:1"}, r"set kafka\.bootstrap_servers"),
    ],
)
def test_options_that_are_not_accepted_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        clients.producer(settings_for("127.0.0.1:1", options=options))


def test_options_override_and_booleans_are_understood() -> None:
    clients.producer(settings_for("127.0.0.1:1", options={"socket.keepalive.enable": True, "linger.ms": 0}))


def test_a_sasl_protocol_needs_a_mechanism() -> None:
    with pytest.raises(SettingsError, match=r"kafka\.sasl_mechanism"):
        clients.check(settings_for("127.0.0.1:1", security_protocol="SASL_PLAINTEXT"))


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    settings = settings_for(
        "127.0.0.1:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=secret,
        ssl_ca_location=tmp_path / "absent.pem",
        options={"ssl.key.pem": secret},
    )
    with pytest.raises(SettingsError) as caught:
        clients.check(settings)
    assert secret not in str(caught.value)


def test_a_missing_certificate_names_its_setting(tmp_path: Path) -> None:
    settings = settings_for("127.0.0.1:1", security_protocol="SSL", ssl_ca_location=tmp_path / "absent.pem")
    with pytest.raises(SettingsError, match=r"kafka\.ssl_ca_location"):
        clients.check(settings)
