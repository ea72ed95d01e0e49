"""Exit codes, and the one line that goes with each."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
from command_line import document, fails, flip, one_line, picture_folders
from helpers import Home, cifarctl, open_registry, small_data, small_train

from cifarctl import settings
from cifarctl.cli.command import Stop
from cifarctl.settings import KafkaSettings

NOBODY = ["--set=kafka.bootstrap_servers=127.0.0.1:1", "--set=kafka.timeout_s=0.3"]


@pytest.fixture
def broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a broker were there, for what fails before it is needed."""
    monkeypatch.setattr("cifarctl.stream.clients.check", lambda settings: None)


# --- 1: unexpected, and what the machine refuses


def test_an_unexpected_error_is_one_line_and_a_traceback_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(overrides: object) -> None:
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr(settings, "explain", broken)
    assert fails(1, "config") == "unexpected RuntimeError: boom and more; run with --debug for a traceback"
    result = cifarctl("config", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in broken" in result.stderr


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere/confusion.png")


def test_a_full_disk_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarctl.ui.plots.draw_confusion", no_space)
    message = fails(1, "eval", "--json", *home.options, "--confusion", "confusion.png")
    assert message.startswith("no disk space left for somewhere/confusion.png; free some")


def test_a_full_disk_under_the_registry_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarctl.registry.files.os.fsync", no_space)
    options = [*small_data(500), *small_train(), f"--set=registry.dir={tmp_path / 'registry'}"]
    message = fails(4, "train", "--json", "--epochs", "1", *options)
    assert "No space left on device" in message
    assert "registry.dir" in message
    assert open_registry(tmp_path / "registry").numbers() == []


def test_a_folder_that_may_not_be_written(home: Home) -> None:
    message = fails(1, "eval", "--json", *home.options, "--confusion", "no/such/folder/confusion.png")
    assert message.startswith("No such file or directory: ")
    assert message.endswith("no/such/folder/confusion.png")


def test_a_training_that_diverges(tmp_path: Path) -> None:
    message = fails(
        1, "train", "--json", "--epochs", "2", *small_data(500), *small_train(), "--set=train.learning_rate=1e30",
        f"--set=registry.dir={tmp_path / 'registry'}",
    )  # fmt: skip
    assert re.match(r"the loss is (nan|inf) at step \d+ .*lower train\.learning_rate", message)


# --- 2: usage and settings


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["train", "--epochs", "0"], "train.epochs = 0 (option): should be greater than or equal to 1"),
        (["train", "--set", "train.epoch=3"], "unknown setting train.epoch (option); did you mean train.epochs?"),
        (["train", "--set", "trian.epochs=3"], "unknown setting trian.epochs (option); did you mean train.epochs?"),
        (["config", "--set", "train.epochs"], "--set 'train.epochs': expected section.key=value"),
        (["produce", "--format", "png2"], "produce.format = png2 (option): should be 'raw'"),
        (["produce", "--rate", "-1"], "produce.rate = -1.0 (option): should be greater than or equal to 0"),
        (["serve", "--set", "serve.alias=UP"], "serve.alias = UP (option): "),
        (["registry", "list", "--set", "registry.keep=0"], "registry.keep = 0 (option): "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings(arguments: list[str], cause: str) -> None:
    assert cause in fails(2, *arguments, "--json")


def test_a_wrong_scenario(home: Home, broker_answers: None) -> None:
    assert "melt" in fails(2, "produce", "--drift", "melt@0-5", "--json", *home.options)


def test_wrong_settings_of_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cifarctl.toml").write_text("[train]\nepochs = 0\n")
    assert "train.epochs = 0 (cifarctl.toml)" in fails(2, "config", "--json")
    Path(".env").write_text("CIFARCTL_TRAIN__EPOCHS=-1\n")
    assert "train.epochs = -1 (.env)" in fails(2, "config", "--json")
    monkeypatch.setenv("CIFARCTL_TRAIN__EPOCHS", "-2")
    assert "train.epochs = -2 (environment)" in fails(2, "config", "--json")
    assert "train.epochs = -3 (option)" in fails(2, "train", "--json", "--epochs", "-3")


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [("train.model", "resnet", "no such architecture"), ("train.device", "tpu", "not usable here")],
)
def test_settings_that_only_the_training_can_judge(name: str, value: str, cause: str, tmp_path: Path) -> None:
    message = fails(
        2, "train", "--json", f"--set={name}={value}", *small_data(500), f"--set=registry.dir={tmp_path / 'registry'}"
    )
    assert cause in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--nope"], "--nope"),
        (["nope"], "nope"),
        (["train", "--epochs", "many"], "--epochs"),
        (["registry", "show"], "VERSION"),
        (["eval", "--min-accuracy", "2"], "--min-accuracy"),
        (["serve", "--max-messages", "0"], "--max-messages"),
        (["train", "surplus"], "surplus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors(arguments: list[str], named: str) -> None:
    result = cifarctl(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert named.lower() in line.lower()


# --- 3: data


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    options = ["--set=data.source=folder", f"--set=data.dir={tmp_path / 'pictures'}"]
    for command in ("train", "eval"):
        if command == "train":
            assert f"{tmp_path / 'pictures' / 'train'} is not a folder" in fails(3, command, "--json", *options)
    for part in ("train", "test"):
        (tmp_path / "pictures" / part).mkdir()
    assert "it needs at least 2" in fails(3, "train", "--json", *options)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    folder = picture_folders(tmp_path / "pictures", {"train": ("cat", "dog"), "test": ("cat", "emu")})
    options = ["--set=data.source=folder", f"--set=data.dir={folder}"]
    assert f"{folder / 'test' / 'emu'}: train has no class emu" in fails(3, "train", "--json", *options)
    (folder / "test" / "emu").rename(folder / "test" / "dog")
    (folder / "train" / "cat" / "0.png").write_bytes(b"\x89PNG broken")
    assert f"{folder / 'train' / 'cat' / '0.png'} cannot be read as a picture" in fails(3, "train", "--json", *options)


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    options = ["--set=data.source=cifar10", f"--set=data.dir={tmp_path / 'none'}", "--set=data.download=false"]
    message = fails(3, "train", "--json", *options)
    assert str(tmp_path / "none") in message
    assert "CIFARCTL_DATA__DIR" in message


def test_a_version_for_other_classes(home: Home, tmp_path: Path) -> None:
    folder = picture_folders(tmp_path / "pictures", {"train": ("cat", "dog"), "test": ("cat", "dog")})
    message = fails(
        3, "eval", "--json", f"--set=registry.dir={home.registry.dir}", "--set=data.source=folder",
        f"--set=data.dir={folder}",
    )  # fmt: skip
    assert "version 1 knows the classes disc" in message


# --- 4: registry and model files


@pytest.mark.parametrize(
    "arguments", [["eval"], ["serve"], ["registry", "promote", "1"], ["registry", "verify"]], ids=" ".join
)
def test_a_flipped_bit_is_refused_with_version_and_both_hashes(
    home: Home, broker_answers: None, arguments: list[str]
) -> None:
    expected = home.registry.manifest(1).sha256
    path = flip(home)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    message = fails(4, *arguments, "--json", *home.options, *NOBODY, stdout=arguments[-1] == "verify")
    for part in ("version 1", expected, actual, "use another version"):
        assert part in message
    assert expected != actual


def test_versions_missing_from_the_registry(home: Home, tmp_path: Path, broker_answers: None) -> None:
    assert "no version or alias 'staging'" in fails(4, "eval", "--json", "--version", "staging", *home.options)
    assert "no version 9" in fails(4, "registry", "show", "9", "--json", *home.options)
    empty = f"--set=registry.dir={tmp_path / 'empty'}"
    message = fails(4, "serve", "--json", empty, *NOBODY)
    assert "there is no production version in" in message
    assert "cifarctl train" in fails(4, "eval", "--json", empty)
    assert "nothing to resume" in fails(4, "train", "--json", "--resume", empty, *small_data(500))
    assert not (tmp_path / "empty" / "versions").exists()


def test_a_registry_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("hello")
    options = [f"--set=registry.dir={tmp_path / 'registry'}", *small_data(500), *small_train()]
    message = fails(4, "train", "--json", "--epochs", "1", *options)
    assert str(tmp_path / "registry") in message


# --- 5: broker


@pytest.mark.parametrize("command", ["produce", "serve", "retrain"])
def test_an_absent_broker_is_told_with_address_and_setting(home: Home, command: str) -> None:
    message = fails(5, command, "--json", *home.options, *NOBODY)
    for part in ("127.0.0.1:1", "kafka.bootstrap_servers", "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS", "cifarctl broker"):
        assert part in message


def test_the_wait_for_an_absent_broker_is_no_longer_than_ten_seconds() -> None:
    assert KafkaSettings().timeout_s <= 10


def test_doctor_finds_problems(home: Home) -> None:
    checks = {row["check"]: row for row in document("doctor", *home.options, *NOBODY, code=5)}
    assert list(checks) == ["device", "data", "registry", "broker"]  # topics need a broker
    assert [name for name, row in checks.items() if row["ok"]] == ["device", "data", "registry"]
    assert "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS" in checks["broker"]["finding"]
    assert "synthetic: 1,400 train, 200 validation, 400 stream" in checks["data"]["finding"]
    flip(home)
    checks = {row["check"]: row for row in document("doctor", *home.options, *NOBODY, code=4)}
    assert "version 1" in checks["registry"]["finding"]


# --- 6 and 7: quality and quantity


def test_an_accuracy_below_the_wanted_one(home: Home) -> None:
    result = cifarctl("eval", "--json", "--min-accuracy", "1.0", *home.options)
    accuracy = json.loads(result.stdout)["accuracy"]
    assert one_line(result, 6, stdout=True) == (f"version 1 has accuracy {accuracy:.4f}, below --min-accuracy 1")
    assert document("eval", "--min-accuracy", f"{accuracy - 0.01}", *home.options)["accuracy"] == accuracy


# --- 130: interrupted


def test_the_second_signal_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("cifarctl.cli.command.os._exit", left.append)
    for number, interrupted in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        stop = Stop()
        stop.handle(number, None)
        assert stop.is_set()
        assert stop.interrupted is interrupted
        assert left == []
        stop.handle(number, None)
        assert left.pop() == 130
