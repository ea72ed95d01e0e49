"""Where settings come from, which of their sources wins, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from setting_sources import (
    SOURCES,
    by_dotenv,
    by_environment,
    by_toml,
    each_source,
    error_of,
    source_of,
    value_of,
    variable,
)

from cifarctl import settings
from cifarctl.errors import SettingsError
from cifarctl.settings import Settings, declared, explain, load, parse_assignment

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
def test_an_invalid_value_is_reported_with_setting_source_and_allowed_values(
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
def test_a_list_or_dictionary_that_is_not_json(monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> None:
    message = error_of(SOURCES[source](monkeypatch, name, "0.6,0.2"))
    assert message.startswith(f"{name} = 0.6,0.2 ({source}): should be JSON, for example ")


@pytest.mark.parametrize("source", ["environment", "cifarctl.toml"])
def test_a_section_that_is_not_a_table(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    if source == "environment":
        monkeypatch.setenv("CIFARCTL_TRAIN", "3")
    else:
        Path("cifarctl.toml").write_text("train = 3\n")
    assert error_of().startswith(f"train = 3 ({source}): should be a valid dictionary")


def test_a_section_can_be_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_TRAIN", '{"epochs": 3}')
    assert load().train.epochs == 3


@pytest.mark.parametrize("content", [b"[train\nepochs = 3\n", b"\xff\xfe\x00", b"[train]\nmodel = 'net\n"])
def test_a_file_that_is_not_toml_is_named(content: bytes) -> None:
    Path("cifarctl.toml").write_bytes(content)
    assert error_of().startswith("cifarctl.toml cannot be read: ")


def test_a_dotenv_that_is_not_text_is_named() -> None:
    Path(".env").write_bytes(b"\xff\xfe\x00")
    assert error_of().startswith(".env cannot be read: ")


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "", "=3"])
def test_an_assignment_of_another_form(text: str) -> None:
    with pytest.raises(SettingsError, match=r"expected section\.key=value"):
        parse_assignment(text)


def test_an_assignment_splits_at_the_first_equals_sign() -> None:
    assert parse_assignment(" kafka.options.client.rack = a=b ") == ("kafka.options.client.rack", "a=b")
