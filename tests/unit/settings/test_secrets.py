"""Secrets among the settings: used, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from setting_sources import error_of

from cifarctl import settings
from cifarctl.errors import SettingsError
from cifarctl.settings import declared, explain, load, parse_assignment

SECRET = "correct horse battery"


SECRETS = ("sasl_password", "sasl_oauth_client_secret", "ssl_key_password")


def spellings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The secret in every place where one may be."""
    for name in SECRETS:
        monkeypatch.setenv(f"CIFARCTL_KAFKA__{name.upper()}", SECRET)
    Path("cifarctl.toml").write_text(f'[kafka.options]\n"ssl.key.password" = "{SECRET}"\n')
    return {"kafka.options.sasl.password": SECRET, "kafka.options.ssl.key.pem": SECRET}


def test_secrets_are_used_but_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = spellings(monkeypatch)
    found = load(overrides)
    assert [getattr(found.kafka, name).get_secret_value() for name in SECRETS] == [SECRET] * len(SECRETS)
    assert dict(found.kafka.options) == {
        "sasl.password": SECRET,
        "ssl.key.pem": SECRET,
        "ssl.key.password": SECRET,
    }
    assert SECRET not in f"{found!r} {found} {found.kafka!r} {found.kafka}"
    rows = {row.setting.name: row.value for row in explain(overrides)}
    assert SECRET not in str(rows)
    assert {rows[f"kafka.{name}"] for name in SECRETS} == {settings.MASK}
    assert rows["kafka.options"].count(settings.MASK) == 3
    assert "sasl.password" in rows["kafka.options"]


def test_that_a_secret_is_not_set_is_shown() -> None:
    assert {row.setting.name: row.value for row in explain()}["kafka.sasl_password"] == ""


@pytest.mark.parametrize(
    "toml",
    [
        f'[kafka]\nsasl_password = ["{SECRET}"]\n',
        f'[kafka.options]\n"sasl.password" = ["{SECRET}"]\n',
        f'[kafka.options]\nsasl.password = "{SECRET}"\n',
        f'[kafka]\nsasl_pasword = "{SECRET}"\n',
        f'[kafka]\nsasl_password = "{SECRET}\n',
    ],
    ids=["no text", "option is no text", "unquoted option", "misspelt", "unclosed"],
)
def test_no_error_tells_a_secret_of_the_file(toml: str) -> None:
    Path("cifarctl.toml").write_text(toml)
    message = error_of()
    assert SECRET not in message
    assert "kafka" in message or "cifarctl.toml" in message


def test_no_error_tells_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CIFARCTL_KAFKA__OPTIONS": f"sasl.password={SECRET}",
        "CIFARCTL_KAFKA__SASL_PASSWORT": SECRET,
        "CIFARCTL_KAFKA_SASL_PASSWORD": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
        assert SECRET not in error_of()
        monkeypatch.delenv(name)


def test_no_error_tells_a_secret_of_an_assignment() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_assignment(f"sasl_password={SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("kafka.sasl_password", "CIFARCTL_KAFKA__SASL_PASSWORD"),
        ("kafka.sasl_oauth_client_secret", "CIFARCTL_KAFKA__SASL_OAUTH_CLIENT_SECRET"),
        ("kafka.ssl_key_password", "CIFARCTL_KAFKA__SSL_KEY_PASSWORD"),
        ("kafka.options.sasl.password", "CIFARCTL_KAFKA__OPTIONS"),
        ("kafka.options.ssl.keystore.password", "CIFARCTL_KAFKA__OPTIONS"),
        ("kafka.options.sasl.oauthbearer.assertion.private.key.passphrase", "CIFARCTL_KAFKA__OPTIONS"),
        ("kafka.options.sasl.oauthbearer.config", "CIFARCTL_KAFKA__OPTIONS"),
    ],
)
def test_a_secret_is_not_taken_from_process_arguments(name: str, variable: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"secrets do not belong in process arguments.* \({variable}\) or \.env"
    ) as caught:
        parse_assignment(f"{name}={SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["kafka.sasl_oauth_token_endpoint", "kafka.ssl_key_location"])
def test_where_a_secret_is_had_is_none(name: str) -> None:
    assert load(dict([parse_assignment(f"{name}=somewhere")])).kafka.model_dump(mode="json")[name[6:]] == "somewhere"
    assert {row.setting.name: row.value for row in explain({name: "somewhere"})}[name] == "somewhere"


@pytest.mark.parametrize("setting", [s for s in declared() if "seconds" in s.description], ids=lambda s: s.name)
def test_no_time_is_longer_than_clocks_can_tell(setting: settings.Setting) -> None:
    """Threads that wait for it would fail where nobody sees it."""
    assert isinstance(setting.default, int | float)
    value = "1" + "0" * 30 if isinstance(setting.default, int) else "1e300"
    assert f"{setting.name} = {value} (option): should be less than or equal to" in error_of({setting.name: value})


@pytest.mark.parametrize(
    "name",
    ["kafka.group_id", "kafka.sasl_username", "kafka.ssl_ca_location", "kafka.options.client.id", "train.device"],
)
def test_bytes_that_are_not_text_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shell passes what another program wrote in Latin-1: Python keeps such bytes as surrogates."""
    message = error_of(dict([parse_assignment(f"{name}=\udcff")]))
    assert message.startswith(name.removesuffix(".client.id") + " = ")
    assert "should be text in UTF-8" in message
    assert ("client.id should" in message) == name.endswith("client.id")


@pytest.mark.parametrize("name", ["train.\udcff", "kafka.options.\udcff", "\udcff.epochs"])
def test_a_name_that_is_not_text_is_refused(name: str) -> None:
    assert error_of({name: "1"}).startswith(f"unknown setting {name} (option); ")


def test_a_path_need_not_be_text() -> None:
    assert load({"registry.dir": "/models\udcff"}).registry.dir == Path("/models\udcff")
