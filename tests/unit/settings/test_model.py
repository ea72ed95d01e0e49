"""The settings themselves: frozen, described, and written out as examples and references."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from setting_sources import SOURCES, each_source, error_of, source_of, value_of

from cifarctl import settings
from cifarctl.errors import SettingsError
from cifarctl.settings import Settings, declared, env_example, load, parse_assignment

ENV_EXAMPLE = ROOT / ".env.example"

# --- kafka.options


def test_names_of_kafka_options_have_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_KAFKA__OPTIONS", '{"linger.ms": 20, "acks": "1"}')
    overrides = dict([parse_assignment("kafka.options.linger.ms=50"), parse_assignment("kafka.options.debug=all")])
    assert load(overrides).kafka.options == {"linger.ms": "50", "acks": "1", "debug": "all"}
    assert source_of("kafka.options", overrides) == "option"
    assert source_of("kafka.options", {}) == "environment"


@pytest.mark.parametrize("source", ["option", "environment", ".env"])
def test_kafka_options_as_json(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    overrides = SOURCES[source](monkeypatch, "kafka.options", '{"linger.ms": 20, "debug": "all"}')
    assert load(overrides).kafka.options == {"linger.ms": 20, "debug": "all"}


def test_a_wrong_kafka_option_is_named_once() -> None:
    Path("cifarctl.toml").write_text('[kafka.options]\n"linger.ms" = [5]\n')
    assert error_of() == "kafka.options.linger.ms = [5] (cifarctl.toml): should be a valid string"


# --- the model itself


def test_settings_are_frozen() -> None:
    found = load()
    with pytest.raises(ValidationError, match="frozen"):
        found.train = settings.TrainSettings()
    for section in Settings.model_fields:
        part = getattr(found, section)
        name = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, getattr(part, name))


def test_every_setting_is_described() -> None:
    assert [setting.name for setting in declared() if not setting.description] == []


def test_fixed_names_are_there() -> None:
    """The names that scripts rely on."""
    wanted = {
        "data.dir", "data.source", "registry.dir", "kafka.bootstrap_servers", "kafka.topic_prefix", "kafka.group_id",
        "kafka.delivery", "kafka.commit_interval_ms", "kafka.options", "serve.batch_size", "serve.max_wait_ms",
        "serve.backend", "online.strategy", "online.update_every", "online.update_interval", "online.buffer_size",
        "online.min_examples",
    }  # fmt: skip
    names = {setting.name: setting.environment for setting in declared()}
    assert wanted <= names.keys()
    assert names["kafka.bootstrap_servers"] == "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS"


def test_the_example_in_the_repository_is_the_generated_one() -> None:
    assert ENV_EXAMPLE.read_text() == env_example(), "python -m cifarctl config --env-example > .env.example"


def assignments() -> dict[str, str]:
    """The commented lines of the example that set something, by variable."""
    lines = [line.removeprefix("# ") for line in env_example().splitlines() if line.startswith("# CIFARCTL_")]
    return {line.partition("=")[0]: line for line in lines}


def test_the_example_has_every_setting_once() -> None:
    assert list(assignments()) == [setting.environment for setting in declared()]


@given(st.sets(st.sampled_from([setting.environment for setting in declared()]), min_size=1))
def test_any_default_uncommented_in_the_example_changes_nothing(chosen: set[str]) -> None:
    lines = assignments()
    Path(".env").write_text("\n".join(lines[name] for name in sorted(chosen)) + "\n")
    assert load() == Settings()


@given(
    epochs=st.integers(1, 10**6),
    rate=st.floats(1e-12, 1e6),
    flip=st.booleans(),
    shares=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
    prefix=st.from_regex(r"\A[A-Za-z0-9._-]{1,200}\Z"),
    options=st.dictionaries(
        st.from_regex(r"\A[a-z]{1,8}(\.[a-z]{1,8}){0,3}\Z"), st.integers() | st.text(st.characters(codec="utf-8"))
    ),
)
def test_values_written_as_text_read_back(
    epochs: int, rate: float, flip: bool, shares: tuple[float, float], prefix: str, options: dict[str, Any]
) -> None:
    first, second = shares
    wanted: dict[str, Any] = {
        "train.epochs": epochs,
        "train.learning_rate": rate,
        "train.flip": flip,
        "data.split": (first, second, 1 - first - second),
        "kafka.topic_prefix": prefix,
        "kafka.options": options,
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in wanted.items()}
    found = load(texts)
    for name, value in wanted.items():
        read = value_of(found, name)
        assert read == value or (isinstance(value, float) and math.isclose(read, value))


def test_the_reference_has_a_row_for_every_setting() -> None:
    rows = settings.reference().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [setting.name for setting in declared()]


def test_one_underscore_too_few_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_TRAIN_EPOCHS", "3")
    assert error_of().endswith("did you mean CIFARCTL_TRAIN__EPOCHS, with two underscores?")


def test_a_line_of_dotenv_that_is_none_is_named_without_its_text() -> None:
    Path(".env").write_text('CIFARCTL_TRAIN__EPOCHS=3\nCIFARCTL_KAFKA__SASL_PASSWORD="half\n')
    message = error_of()
    assert message == ".env cannot be read: line 2 is not of the form NAME=value"


@pytest.mark.parametrize(
    "name",
    ["data.dir", "registry.dir", "kafka.ssl_ca_location", "kafka.ssl_certificate_location", "kafka.ssl_key_location"],
)
@each_source
def test_a_tilde_expands_to_the_home_folder(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands it in the environment, in .env, in cifarctl.toml, nor behind an equals sign."""
    monkeypatch.setenv("HOME", "/houses/ada")
    section, _, key = name.partition(".")
    loaded = load(SOURCES[source](monkeypatch, name, "~/models"))
    assert getattr(getattr(loaded, section), key) == Path("/houses/ada/models")


def test_every_path_among_the_settings_is_such_a_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/houses/ada")
    paths = [
        f"{section}.{name}"
        for section in Settings.model_fields
        for name, field in type(getattr(load(), section)).model_fields.items()
        if "Path" in str(field.annotation)
    ]
    assert len(paths) == 5
    for name in paths:
        section, _, key = name.partition(".")
        assert getattr(getattr(load({name: "~/x"}), section), key) == Path("/houses/ada/x")


def test_paths_among_the_options_of_the_kafka_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/houses/ada")
    given = {"kafka.options.ssl.crl.location": "~/crl.pem", "kafka.options.client.rack": "~/rack"}
    assert load(given).kafka.options == {"ssl.crl.location": "/houses/ada/crl.pem", "client.rack": "~/rack"}


def test_the_home_folder_of_nobody() -> None:
    with pytest.raises(SettingsError, match=r"data.dir = ~nobody-here/x \(option\): there is no home folder"):
        load({"data.dir": "~nobody-here/x"})
