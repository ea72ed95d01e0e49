"""Where settings come from, which of their sources wins, and what is said of a wrong one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cifarctl import settings
from cifarctl.errors import SettingsError
from cifarctl.settings import Settings, declared, env_example, explain, load, parse_assignment

ENV_EXAMPLE = Path(__file__).parents[3] / ".env.example"
SECRET = "correct horse battery"

# Each puts one setting into one source and returns what `load` then needs as overrides.
Put = Callable[[pytest.MonkeyPatch, str, str], dict[str, Any]]


def by_option(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    return {name: value}


def by_environment(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    patch.setenv(variable(name), value)
    return {}


def by_dotenv(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    Path(".env").write_text(f"{variable(name)}={value}\n")
    return {}


def by_toml(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    section, _, key = name.partition(".")
    plain = value[:1] in "[0123456789-" and value[-1:] in "]0123456789"
    Path("cifarctl.toml").write_text(f"[{section}]\n{key} = {value if plain else repr(value)}\n")
    return {}


SOURCES: dict[str, Put] = {
    "option": by_option,
    "environment": by_environment,
    ".env": by_dotenv,
    "cifarctl.toml": by_toml,
}
each_source = pytest.mark.parametrize("source", SOURCES)


def variable(name: str) -> str:
    return "CIFARCTL_" + name.upper().replace(".", "__")


def value_of(found: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(found, section), key)


def error_of(overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def source_of(name: str, overrides: dict[str, Any]) -> str:
    return next(row.source for row in explain(overrides) if row.setting.name == name)


# --- precedence


@pytest.mark.parametrize(
    ("name", "texts", "values"),
    [
        ("train.epochs", ("1", "2", "3", "4"), (1, 2, 3, 4)),
        ("online.learning_rate", ("0.1", "0.2", "0.3", "0.4"), (0.1, 0.2, 0.3, 0.4)),
        ("kafka.topic_prefix", ("a", "b", "c", "d"), ("a", "b", "c", "d")),
        ("registry.dir", ("a", "b", "c", "d"), (Path("a"), Path("b"), Path("c"), Path("d"))),
        (
            "data.split",
            ("[0.1, 0.1, 0.8]", "[0.2, 0.1, 0.7]", "[0.3, 0.1, 0.6]", "[0.4, 0.1, 0.5]"),
            ((0.1, 0.1, 0.8), (0.2, 0.1, 0.7), (0.3, 0.1, 0.6), (0.4, 0.1, 0.5)),
        ),
    ],
)
def test_the_strongest_source_wins(
    monkeypatch: pytest.MonkeyPatch, name: str, texts: tuple[str, ...], values: tuple[Any, ...]
) -> None:
    default = value_of(load(), name)
    assert source_of(name, {}) == "default"
    for source, text, value in reversed(list(zip(SOURCES, texts, values, strict=True))):
        overrides = SOURCES[source](monkeypatch, name, text)
        assert value_of(load(overrides), name) == value != default
        assert source_of(name, overrides) == source
    # Taken away one by one, the next one down counts again.
    assert value_of(load(), name) == values[1]
    monkeypatch.delenv(variable(name))
    assert value_of(load(), name) == values[2]
    Path(".env").unlink()
    assert value_of(load(), name) == values[3]
    Path("cifarctl.toml").unlink()
    assert value_of(load(), name) == default


def test_sources_fill_one_section_together(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cifarctl.toml").write_text("[train]\nepochs = 3\nseed = 3\n")
    Path(".env").write_text("CIFARCTL_TRAIN__BATCH_SIZE=64\nCIFARCTL_TRAIN__SEED=4\n")
    monkeypatch.setenv("CIFARCTL_TRAIN__FLIP", "false")
    train = load({"train.precision": "float32"}).train
    assert (train.epochs, train.batch_size, train.flip, train.precision, train.seed) == (3, 64, False, "float32", 4)
    assert train.learning_rate == settings.TrainSettings().learning_rate


@each_source
def test_explain_names_the_source_of_this_setting_only(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    overrides = SOURCES[source](monkeypatch, "serve.batch_size", "7")
    rows = explain(overrides)
    assert [(row.setting.name, row.value) for row in rows if row.source != "default"] == [("serve.batch_size", "7")]
    assert [row.source for row in rows if row.source != "default"] == [source]
    assert [row.setting.name for row in rows] == [setting.name for setting in declared()]


def test_an_empty_variable_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_TRAIN__EPOCHS", "")
    assert load() == Settings()


def test_the_case_of_a_variable_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("cifarctl_train__epochs", "3")
    assert load().train.epochs == 3


def test_another_programs_names_in_dotenv_are_none_of_our_business() -> None:
    Path(".env").write_text("TRAIN__EPOCHS=0\ntrain=5\nDATABASE_URL=x\nCIFARCTL_TRAIN__EPOCHS=3\n")
    assert load().train.epochs == 3


# --- unknown names


@each_source
def test_an_unknown_key_is_refused_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    overrides = SOURCES[source](monkeypatch, "train.epoch", "3")
    meant = "CIFARCTL_TRAIN__EPOCHS" if source in ("environment", ".env") else "train.epochs"
    assert error_of(overrides) == f"unknown setting train.epoch ({source}); did you mean {meant}?"


@pytest.mark.parametrize("name", ["kafka.option.linger.ms", "kafak.options.linger.ms"])
def test_a_misspelt_option_of_the_kafka_client(name: str) -> None:
    assert error_of({name: "5"}) == f"unknown setting {name} (option); did you mean kafka.options.linger.ms?"


@each_source
def test_an_unknown_key_like_no_other_tells_where_all_are(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    message = error_of(SOURCES[source](monkeypatch, "registry.qqqqqqqqqqqqqqqqqqqq", "3"))
    assert message == f"unknown setting registry.qqqqqqqqqqqqqqqqqqqq ({source}); `cifarctl config` lists all"


@each_source
def test_a_misspelt_section_is_refused_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    message = error_of(SOURCES[source](monkeypatch, "onlin.update_every", "3"))
    variable = source in ("environment", ".env")
    meant = "CIFARCTL_ONLINE__UPDATE_EVERY" if variable else "online.update_every"
    assert message == f"unknown setting onlin.update_every ({source}); did you mean {meant}?"


@each_source
def test_an_unknown_section_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    message = error_of(SOURCES[source](monkeypatch, "qqqqqqqq.wwwwwww", "3"))
    assert message.startswith(f"unknown setting qqqqqqqq.wwwwwww ({source}); the sections are ")
    for section in Settings.model_fields:
        assert section in message


def test_a_name_without_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_EPOCHS", "3")
    assert "unknown setting epochs (environment)" in error_of()
    monkeypatch.delenv("CIFARCTL_EPOCHS")
    Path("cifarctl.toml").write_text("epochs = 3\n")
    assert "unknown setting epochs (cifarctl.toml)" in error_of()


# --- wrong values


@each_source
@pytest.mark.parametrize(
    ("name", "value", "shown", "allowed"),
    [
        ("train.epochs", "0", "0", "greater than or equal to 1"),
        ("train.epochs", "many", "many", "valid integer"),
        ("train.learning_rate", "-0.5", "-0.5", "greater than 0"),
        ("data.source", "imagenet", "imagenet", "'auto', 'cifar10', 'folder' or 'synthetic'"),
        ("data.synthetic_images", "499", "499", "greater than or equal to 500"),
        ("data.split", "[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5]", "greater than 0 and add up to 1"),
        ("kafka.topic_prefix", "a b", "a b", "match pattern"),
        ("kafka.timeout_s", "61", "61", "less than or equal to 60"),
        ("serve.json_std", "[0.5, 0.0, 0.5]", "[0.5, 0.0, 0.5]", "greater than 0"),
        ("serve.alias", "Production", "Production", "match pattern"),
        ("online.gate_alpha", "0.5", "0.5", "less than 0.5"),
        ("online.holdout_every", "1", "1", "greater than or equal to 2"),
        ("online.detector", "ddm", "ddm", "'adwin', 'hddm-w', 'page-hinkley' or 'kswin'"),
    ],
)
def test_a_wrong_value_is_told_with_setting_value_source_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, value: str, shown: str, allowed: str
) -> None:
    message = error_of(SOURCES[source](monkeypatch, name, value))
    assert message.startswith(f"{name} = {shown} ({source}): ")
    assert allowed in message


def test_every_wrong_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    by_toml(monkeypatch, "train.batch_size", "0")
    by_dotenv(monkeypatch, "serve.batch_size", "-1")
    by_environment(monkeypatch, "online.steps", "0")
    message = error_of({"data.split_seed": "-3"})
    for part in (
        "train.batch_size = 0 (cifarctl.toml)",
        "serve.batch_size = -1 (.env)",
        "online.steps = 0 (environment)",
        "data.split_seed = -3 (option)",
    ):
        assert part in message


def test_the_value_told_is_the_strongest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    by_toml(monkeypatch, "train.epochs", "-7")
    assert error_of({"train.epochs": "0"}).startswith("train.epochs = 0 (option): ")
    assert load({"train.epochs": "2"}).train.epochs == 2


@pytest.mark.parametrize("source", ["option", "environment", ".env"])
@pytest.mark.parametrize("name", ["data.split", "kafka.options"])
def test_a_list_or_dictionary_that_is_no_json(monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> None:
    message = error_of(SOURCES[source](monkeypatch, name, "0.6,0.2"))
    assert message.startswith(f"{name} = 0.6,0.2 ({source}): should be JSON, for example ")


@pytest.mark.parametrize("source", ["environment", "cifarctl.toml"])
def test_a_section_that_is_no_section(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    if source == "environment":
        monkeypatch.setenv("CIFARCTL_TRAIN", "3")
    else:
        Path("cifarctl.toml").write_text("train = 3\n")
    assert error_of().startswith(f"train = 3 ({source}): should be a valid dictionary")


def test_a_section_can_be_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_TRAIN", '{"epochs": 3}')
    assert load().train.epochs == 3


@pytest.mark.parametrize("content", [b"[train\nepochs = 3\n", b"\xff\xfe\x00", b"[train]\nmodel = 'net\n"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    Path("cifarctl.toml").write_bytes(content)
    assert error_of().startswith("cifarctl.toml cannot be read: ")


def test_a_dotenv_that_is_no_text_is_named() -> None:
    Path(".env").write_bytes(b"\xff\xfe\x00")
    assert error_of().startswith(".env cannot be read: ")


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "", "=3"])
def test_an_assignment_of_another_form(text: str) -> None:
    with pytest.raises(SettingsError, match=r"expected section\.key=value"):
        parse_assignment(text)


def test_an_assignment_splits_at_the_first_equals_sign() -> None:
    assert parse_assignment(" kafka.options.client.rack = a=b ") == ("kafka.options.client.rack", "a=b")


# --- secrets

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
def test_bytes_that_are_no_text_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shell passes what another program wrote in Latin-1: Python keeps such bytes as surrogates."""
    message = error_of(dict([parse_assignment(f"{name}=\udcff")]))
    assert message.startswith(name.removesuffix(".client.id") + " = ")
    assert "should be text in UTF-8" in message
    assert ("client.id should" in message) == name.endswith("client.id")


@pytest.mark.parametrize("name", ["train.\udcff", "kafka.options.\udcff", "\udcff.epochs"])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    assert error_of({name: "1"}).startswith(f"unknown setting {name} (option); ")


def test_a_path_need_not_be_text() -> None:
    assert load({"registry.dir": "/models\udcff"}).registry.dir == Path("/models\udcff")


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
def test_what_is_written_as_text_reads_back(
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
def test_the_home_folder_is_told_by_its_sign(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
