"""The command line: help, exit codes, one-line errors, JSON documents, the registry's commands."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from helpers import ALL, Home, cifarctl, open_registry, republish, small_data, small_train, spoil
from PIL import Image
from torch import nn
from torch.nn import functional
from typer.testing import Result

from cifarctl import events, models, settings
from cifarctl.cli import app
from cifarctl.cli.command import Stop
from cifarctl.models.architectures import airbench
from cifarctl.registry.loading import load
from cifarctl.settings import KafkaSettings

SECRET = "correct horse battery"
GROUPS = {("registry",), ("dead-letters",)}
NOBODY = ["--set=kafka.bootstrap_servers=127.0.0.1:1", "--set=kafka.timeout_s=0.3"]
HEAVY = ("torch", "torchvision", "numpy", "pydantic_settings", "confluent_kafka", "river", "scipy", "matplotlib")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as what one types."""
    group = typer.main.get_command(app) if group is None else group
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def fails(code: int, *arguments: str | Path, stdout: bool = False) -> str:
    """Run a command that ends with `code`; the one line that it says of it.

    `stdout`: whether a result comes before the failure.
    """
    result = cifarctl(*arguments)
    return one_line(result, code, stdout=stdout)


def one_line(result: Result | subprocess.CompletedProcess[str], code: int, *, stdout: bool = False) -> str:
    found = result.exit_code if isinstance(result, Result) else result.returncode
    assert found == code, result.stderr
    assert "Traceback" not in result.stderr
    assert bool(result.stdout) == stdout, result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("cifarctl: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("cifarctl: ")


def document(*arguments: str | Path, code: int = 0) -> Any:
    """The JSON that a command writes, and nothing else on stdout."""
    result = cifarctl(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cifarctl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def flip(home: Home, version: int = 1) -> Path:
    """Flip a bit in the middle of a version's weights."""
    path = home.registry.path(version) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def picture_folders(directory: Path, parts: dict[str, tuple[str, ...]], count: int = 4) -> Path:
    """A data set of small pictures: ``parts`` names the classes of each part."""
    generator = np.random.default_rng(0)
    for part, classes in parts.items():
        for name in classes:
            folder = directory / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return directory


@pytest.fixture
def broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a broker were there, for what fails before it is needed."""
    monkeypatch.setattr("cifarctl.stream.clients.check", lambda settings: None)


# --- help


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "cifarctl")
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = cifarctl(*path, option)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: ")
        assert result.stderr == ""


@pytest.mark.parametrize("path", [path for path in commands() if path not in {(), *GROUPS}], ids=" ".join)
def test_every_command_has_the_common_options(path: tuple[str, ...]) -> None:
    text = cifarctl(*path, "--help").stdout
    for option in ("--json", "--quiet", "--no-dashboard", "--set", "--debug"):
        assert option in text


def test_all_commands_are_there() -> None:
    names = {path[0] for path in commands() if path}
    assert names == {
        "train", "produce", "serve", "retrain", "eval", "registry", "dead-letters", "verify-stream", "broker", "demo",
        "doctor", "config",
    }  # fmt: skip
    assert {path[1] for path in commands() if path[:1] == ("registry",) and len(path) == 2} == {
        "list", "show", "compare", "promote", "rollback", "remove-alias", "history", "gc", "verify", "import",
    }  # fmt: skip
    assert {path[1] for path in commands() if path[:1] == ("dead-letters",) and len(path) == 2} == {"list", "replay"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["registry", "import", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cifarctl.cli import main\n"
        f"sys.argv = ['cifarctl', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print(*sorted(set({HEAVY!r}) & sys.modules.keys()), file=sys.stderr)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0
    assert "Usage: " in found.stdout
    assert found.stderr.split() == []


def test_settings_and_listing_import_no_torch(home: Home) -> None:
    code = (
        "import sys\n"
        "from cifarctl.cli import app\n"
        "for arguments in sys.argv[1:]:\n"
        "    app(arguments.split(), standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    listing = f"registry list --set=registry.dir={home.registry.dir}"
    command = [sys.executable, "-c", code, "config", listing]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_the_package_runs_as_a_module() -> None:
    found = process("--help")
    assert found.returncode == 0
    assert "Online machine learning on CIFAR-10" in found.stdout


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


def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    """As `| head` does. The pipe's other end is closed before the command can write."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cifarctl", "registry", "list", "--json", *home.options]
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")


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
            assert f"{tmp_path / 'pictures' / 'train'} is no folder" in fails(3, command, "--json", *options)
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


@pytest.mark.broker
@pytest.mark.parametrize("command", [["serve", "--online"], ["retrain"]], ids=" ".join)
def test_nothing_is_learned_from_a_version_of_all_images(
    home: Home,
    kafka: KafkaSettings,
    command: list[str],
) -> None:
    home.registry.promote(republish(home.registry, seen=ALL), who="somebody", why="by hand")
    message = fails(3, *command, "--json", *home.options, *to_kafka(kafka))
    assert message.startswith("version 2 was trained on train, validation, stream images")
    assert "`cifarctl train --promote` without --full" in message
    assert "online.allow_full" in message


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


def test_what_is_not_in_the_registry(home: Home, tmp_path: Path, broker_answers: None) -> None:
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


def test_doctor_finds_what_is_wrong(home: Home) -> None:
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


def to_kafka(kafka: KafkaSettings) -> list[str]:
    names = ("bootstrap_servers", "topic_prefix", "group_id", "session_timeout_ms", "commit_interval_ms")
    return [f"--set=kafka.{name}={getattr(kafka, name)}" for name in names]


RETRAIN_FIELDS = ["outcome", "examples", "champion", "challenger", "reasons", "seconds", "update"]


@pytest.mark.broker
def test_too_few_examples(home: Home, kafka: KafkaSettings) -> None:
    sent = document("produce", "--rate", "0", "--count", "30", *home.options, *to_kafka(kafka))
    names = ["sent", "failed", "seconds", "messages_per_second", "labels_sent", "labels_failed"]
    assert list(sent) == [*names, "unconfirmed", "labels_unconfirmed"]
    assert (sent["sent"], sent["failed"], sent["labels_sent"], sent["labels_failed"]) == (30, 0, 0, 0)
    result = cifarctl("retrain", "--json", *home.options, *to_kafka(kafka))
    found = json.loads(result.stdout)
    assert list(found) == RETRAIN_FIELDS
    assert (found["outcome"], found["examples"]) == ("not_enough_data", 30)
    message = one_line(result, 7, stdout=True)
    assert "30 labelled examples since the last update, 200 are wanted" in message
    assert "online.min_examples" in message


@pytest.mark.broker
def test_learning_anew_from_what_came_since_a_time(home: Home, kafka: KafkaSettings) -> None:
    """Whatever was learned from before counts again."""
    document("produce", "--rate", "0", "--count", "120", *home.options, *to_kafka(kafka))
    hopeless = [
        "--json", *home.options, *to_kafka(kafka), "--set=online.min_examples=100", "--set=online.steps=1",
        "--set=online.learning_rate=1e-9", "--set=online.learning_rate_min=1e-9",
    ]  # fmt: skip
    in_an_hour = f"@{time.time() + 3600:.0f}"
    found = [
        json.loads(cifarctl("retrain", *since, *hopeless).stdout)
        for since in ([], [], ["--since", "1h"], ["--since", in_an_hour], ["--since", "1h", "--dry-run"])
    ]
    assert [(result["outcome"], result["examples"]) for result in found] == [
        ("rejected", 120),
        ("not_enough_data", 0),
        ("rejected", 120),
        ("not_enough_data", 0),
        ("rejected", 120),
    ]
    assert one_line(cifarctl("retrain", "--since", "yesterday", *hopeless), 2, stdout=False).startswith(
        "--since yesterday: expected 90s, 30m, 2h, 1d, or a time"
    )
    assert one_line(cifarctl("retrain", "--since", "1h", "--follow", *hopeless), 2, stdout=False).startswith(
        "--follow and --since are mutually exclusive"
    )


@pytest.mark.broker
def test_a_rejected_challenger(home: Home, kafka: KafkaSettings) -> None:
    document("produce", "--rate", "0", "--count", "120", *home.options, *to_kafka(kafka))
    result = cifarctl(
        "retrain", "--json", *home.options, *to_kafka(kafka), "--set=online.min_examples=100", "--set=online.steps=1",
        "--set=online.learning_rate=1e-9", "--set=online.learning_rate_min=1e-9",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert list(found) == RETRAIN_FIELDS
    assert (found["outcome"], found["examples"]) == ("rejected", 120)
    assert (found["champion"]["version"], found["challenger"]["version"]) == (1, None)
    assert one_line(result, 6, stdout=True).startswith("the challenger was rejected: ")
    assert home.registry.resolve("production") == 1
    assert home.registry.history()[-1].action == "reject"


# --- 130: interrupted


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    command = [
        sys.executable, "-m", "cifarctl", "train", "--json", "--epochs", "100000", *small_data(500), *small_train(),
        f"--set=registry.dir={registry}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                if line.startswith("epoch 2/"):
                    break
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "--resume" in err
    assert len(list((registry / "training").glob("*.safetensors"))) == 1
    assert open_registry(registry).numbers() == []


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


# --- JSON


@pytest.mark.slow
def test_the_document_of_train(tmp_path: Path) -> None:
    options = [*small_data(500), *small_train(), f"--set=registry.dir={tmp_path / 'registry'}"]
    found = document("train", "--epochs", "2", *options)
    assert {
        "version", "model", "epochs", "train_images", "validation_accuracy", "test_accuracy", "seconds",
        "images_per_second", "promoted",
    } <= found.keys()  # fmt: skip
    assert found.keys() == {field.name for field in fields(events.TrainResult)}
    assert (found["version"], found["model"], found["epochs"], found["train_images"], found["promoted"]) == (
        1, "net", 2, 350, True,
    )  # fmt: skip
    assert 0 <= found["test_accuracy"] <= 1
    again = document("train", "--epochs", "1", "--no-promote", "--full", "--seed", "3", *options)
    assert (again["version"], again["train_images"], again["validation_accuracy"], again["promoted"]) == (
        2, 500, None, False,
    )  # fmt: skip
    assert open_registry(tmp_path / "registry").manifest(2).settings["seed"] == 3


def test_the_document_of_eval(home: Home, tmp_path: Path) -> None:
    found = document("eval", *home.options, "--confusion", tmp_path / "here.png")
    assert list(found) == ["version", "accuracy", "loss", "ece", "per_class", "confusion"]
    assert list(found["per_class"]) == list(home.dataset.classes)
    assert sum(map(sum, found["confusion"])) == len(home.dataset.test)
    with Image.open(tmp_path / "here.png") as picture:
        assert picture.format == "PNG"
    for reference in ("1", "latest", "v1"):
        assert document("eval", "--version", reference, *home.options) == found


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            events.ProduceResult,
            "sent failed seconds messages_per_second labels_sent labels_failed unconfirmed labels_unconfirmed",
        ),
        (
            events.ServeResult,
            "predicted dead_lettered labelled accuracy seconds messages_per_second latency_ms model_versions swaps "
            "by_version latency_left_out labels_unmatched",
        ),
        (
            events.OnlineServeResult,
            "predicted dead_lettered labelled accuracy seconds messages_per_second latency_ms model_versions swaps "
            "by_version latency_left_out labels_unmatched buffer retrains promotions rollbacks",
        ),
        (events.RetrainResult, "outcome examples champion challenger reasons seconds update"),
        (events.EvaluateResult, "version accuracy loss ece per_class confusion"),
    ],
)
def test_names_of_fields_that_scripts_rely_on(kind: type, names: str) -> None:
    assert [field.name for field in fields(kind)] == names.split()


def test_the_synthetic_images_are_announced_loudly(home: Home) -> None:
    for extra in ([], ["--quiet"], ["--json"], ["--json", "--quiet"]):
        result = cifarctl("eval", *home.options, *extra)
        assert result.exit_code == 0
        assert "WARNING: the images are synthetic" in result.stderr
    assert "accuracies on them are not CIFAR-10's" in result.stderr


def test_quiet_says_nothing(home: Home) -> None:
    result = cifarctl("registry", "list", "--quiet", *home.options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


# --- config


def test_config_tells_values_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_KAFKA__SASL_PASSWORD", SECRET)
    Path("cifarctl.toml").write_text("[serve]\nbatch_size = 7\n")
    monkeypatch.setenv("CIFARCTL_KAFKA__OPTIONS", json.dumps({"sasl.password": SECRET}))
    options = ["--set", "train.epochs=3"]
    found = document("config", *options)
    assert found.keys() == {setting.name for setting in settings.declared()}
    assert found["train.epochs"] == {"value": "3", "source": "option"}
    assert found["serve.batch_size"] == {"value": "7", "source": "cifarctl.toml"}
    assert found["kafka.sasl_password"] == {"value": settings.MASK, "source": "environment"}
    assert found["train.seed"] == {"value": "0", "source": "default"}
    for result in (cifarctl("config", "--json", *options), cifarctl("config", *options)):
        assert result.exit_code == 0
        assert SECRET not in result.stdout + result.stderr
        assert "sasl.password" in result.stdout


def test_config_writes_the_example_and_the_reference() -> None:
    assert cifarctl("config", "--env-example").stdout == settings.env_example()
    assert cifarctl("config", "--reference").stdout == settings.reference()


# --- registry


def test_the_registry_is_listed(home: Home) -> None:
    republish(home.registry)
    (first, second) = document("registry", "list", *home.options)
    assert list(first) == ["version", "created", "model", "parent", "metrics", "aliases"]
    assert (first["version"], first["parent"], first["aliases"]) == (1, None, ["production"])
    assert (second["version"], second["parent"], second["aliases"]) == (2, 1, [])
    assert first["metrics"]["test_accuracy"] == home.registry.manifest(1).metrics["test_accuracy"]
    text = cifarctl("registry", "list", *home.options).stdout
    assert "production" in text
    assert "validation" in text


def test_an_empty_registry_is_listed(tmp_path: Path) -> None:
    options = [f"--set=registry.dir={tmp_path / 'registry'}"]
    assert document("registry", "list", *options) == []
    assert document("registry", "history", *options) == []
    assert document("registry", "gc", *options) == []
    assert document("registry", "verify", *options) == []
    assert "cifarctl train" in cifarctl("registry", "list", *options).stdout
    assert not (tmp_path / "registry").exists()


def test_a_version_is_shown(home: Home) -> None:
    plots = {"plots": [str(path) for path in home.registry.plots(1)]}
    shown = document("registry", "show", "production", *home.options)
    assert shown == home.registry.manifest(1).model_dump(mode="json") | plots
    text = cifarctl("registry", "show", "1", *home.options).stdout
    assert home.registry.manifest(1).sha256[:20] in text


@pytest.mark.slow
def test_a_training_leaves_its_figures_and_pictures_with_the_version(tmp_path: Path) -> None:
    options = [f"--set=registry.dir={tmp_path / 'registry'}", *small_data(500), *small_train()]
    trained = document("train", "--epochs", "2", *options)
    plots = [Path(plot) for plot in document("registry", "show", str(trained["version"]), *options)["plots"]]
    names = {"confusion.png", "learning-curve.png", "metrics.jsonl", "mistakes.png"}
    assert {plot.name for plot in plots} == names
    shown = cifarctl("registry", "show", "1", *options).stdout
    for plot in plots:
        assert plot.name in shown
        if plot.suffix == ".png":
            with Image.open(plot) as picture:
                colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert len(colours) > 100, "more is drawn than axes"
    (metrics,) = (plot for plot in plots if plot.suffix == ".jsonl")
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[-1]["validation_accuracy"] == pytest.approx(trained["validation_accuracy"])


def test_aliases_are_moved_and_the_history_tells(home: Home) -> None:
    republish(home.registry)
    republish(home.registry)
    moved = document("registry", "promote", "2", "--why", "better", *home.options)
    assert moved == {"alias": "production", "version": 2, "generation": 2}
    assert document("registry", "promote", "latest", *home.options)["version"] == 3
    assert document("registry", "promote", "3", "--alias", "canary", *home.options)["alias"] == "canary"
    assert document("registry", "rollback", "--why", "worse", *home.options) == {
        "alias": "production", "version": 2, "generation": 4,
    }  # fmt: skip
    assert document("registry", "rollback", *home.options)["version"] == 1
    assert "nothing to go back to" in fails(4, "registry", "rollback", "--json", *home.options)
    found = document("registry", "history", "--alias", "production", *home.options)
    assert [(move["action"], move["to_version"], move["who"], move["why"]) for move in found] == [
        ("promote", 1, "train", "there was no production version"),
        ("promote", 2, "cli", "better"),
        ("promote", 3, "cli", "manual"),
        ("rollback", 2, "cli", "worse"),
        ("rollback", 1, "cli", "manual"),
    ]
    assert len(document("registry", "history", *home.options)) == 6
    removed = [document("registry", "remove-alias", "canary", "--why", "over", *home.options) for _ in range(2)]
    assert removed == [{"alias": "canary", "removed": True}, {"alias": "canary", "removed": False}]
    text = cifarctl("registry", "history", *home.options)
    assert text.exit_code == 0
    assert re.search(r"canary +– → 3 +cli +manual", text.stdout)
    assert re.search(r"canary +3 → – +cli +over", text.stdout)


def test_a_damaged_version_is_not_promoted(home: Home) -> None:
    republish(home.registry)
    flip(home, 2)
    fails(4, "registry", "promote", "2", "--json", *home.options)
    assert home.registry.resolve("production") == 1


def test_an_alias_with_an_impossible_name(home: Home) -> None:
    assert "not allowed" in fails(4, "registry", "promote", "1", "--alias", "../x", "--json", *home.options)


def test_old_versions_are_collected(home: Home) -> None:
    for _ in range(3):
        republish(home.registry)
    options = [*home.options, "--set=registry.keep=1", "--set=registry.keep_hours=0"]
    planned = document("registry", "gc", "--dry-run", *options)
    assert [(row["version"], row["bytes"] > 0) for row in planned] == [(2, True), (3, True)]
    assert home.registry.numbers() == [1, 2, 3, 4]
    assert document("registry", "gc", *options) == planned
    assert home.registry.numbers() == [1, 4]
    assert document("registry", "gc", *options) == []
    assert "nothing to remove" in cifarctl("registry", "gc", *options).stdout


def test_versions_are_verified(home: Home) -> None:
    republish(home.registry)
    assert document("registry", "verify", *home.options) == [
        {"version": 1, "problem": None},
        {"version": 2, "problem": None},
    ]
    flip(home, 2)
    result = cifarctl("registry", "verify", "--json", *home.options)
    found = json.loads(result.stdout)
    assert found[0] == {"version": 1, "problem": None}
    assert "sha256" in found[1]["problem"]
    one_line(result, 4, stdout=True)
    assert document("registry", "verify", "production", *home.options) == [{"version": 1, "problem": None}]


# --- registry import


class Net(nn.Module):
    """As the tutorial's script has it: a class, with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = functional.max_pool2d(functional.relu(conv(x)), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


@pytest.fixture
def net(home: Home) -> Net:
    """The class-based network with the weights of the small trained model."""
    model = Net().eval()
    weights = load(home.registry, 1).model.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model


@pytest.mark.parametrize("wrapped", [False, True], ids=["weights", "in a dictionary"])
def test_weights_of_another_program_are_imported(home: Home, net: Net, tmp_path: Path, wrapped: bool) -> None:
    file = tmp_path / "tutorial.pt"
    weights = net.state_dict()
    torch.save({"epoch": 3, "state_dict": weights} if wrapped else weights, file)
    found = document("registry", "import", file, *home.options)
    assert list(found) == ["version", "test_accuracy", "promoted"]
    assert (found["version"], found["promoted"]) == (2, False)
    assert found["test_accuracy"] > 0.5  # the normalisation differs from training's, the weights are the same
    loaded = load(home.registry, 2)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(loaded.model(images), net(images))
    manifest = loaded.manifest
    assert (manifest.origin, manifest.model, manifest.normalisation.mean) == ("import", "net", (0.5, 0.5, 0.5))
    assert manifest.split.seen == ("train", "validation", "stream")
    assert home.registry.resolve("production") == 1


def test_weights_of_what_train_makes_are_imported(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an architecture whose recipe names arguments."""
    recipe = replace(models.recipe_of("airbench"), arguments={"widths": [4, 6, 8]})
    monkeypatch.setattr(airbench, "RECIPE", recipe)
    torch.save(models.build("airbench", dict(recipe.arguments)).state_dict(), tmp_path / "weights.pt")
    document("registry", "import", tmp_path / "weights.pt", "--model", "airbench", *home.options)
    assert load(home.registry, 2).manifest.arguments == {"classes": 10, "widths": [4, 6, 8]}


def test_imported_weights_can_be_promoted_at_once(home: Home, net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "tutorial.pt")
    assert document("registry", "import", tmp_path / "tutorial.pt", "--promote", *home.options)["promoted"]
    assert home.registry.resolve("production") == 2
    assert home.registry.history()[-1].why == "imported from tutorial.pt"


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.mark, "pwned")


def evil(net: Net, file: Path) -> None:
    torch.save({"fc2.bias": Evil(file.with_suffix(".mark"))}, file)


def evil_pickle(net: Net, file: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(file.with_suffix(".mark"))))


def whole_model(net: Net, file: Path) -> None:
    torch.save(net, file)


def fewer(net: Net, file: Path) -> None:
    torch.save(dict(list(net.state_dict().items())[:-1]), file)


def surplus(net: Net, file: Path) -> None:
    torch.save({**net.state_dict(), "extra": torch.zeros(1)}, file)


def other_shape(net: Net, file: Path) -> None:
    torch.save(net.state_dict() | {"fc2.bias": torch.zeros(11)}, file)


def not_finite(net: Net, file: Path) -> None:
    torch.save(net.state_dict() | {"fc2.bias": torch.full((10,), float("nan"))}, file)


def one_tensor(net: Net, file: Path) -> None:
    torch.save(torch.zeros(3), file)


def numbers(net: Net, file: Path) -> None:
    torch.save({"epoch": 3}, file)


def garbage(net: Net, file: Path) -> None:
    file.write_bytes(b"garbage" * 100)


def empty(net: Net, file: Path) -> None:
    file.write_bytes(b"")


def truncated(net: Net, file: Path) -> None:
    torch.save(net.state_dict(), file)
    file.write_bytes(file.read_bytes()[:2000])


def foreign_zip(net: Net, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("hello.txt", "hello")


def folder(net: Net, file: Path) -> None:
    file.mkdir()


def nothing(net: Net, file: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (evil, "holds no plain weights"),
        (evil_pickle, "holds no plain weights"),
        (whole_model, "holds no plain weights"),
        (fewer, "does not fit the architecture net"),
        (surplus, "does not fit the architecture net"),
        (other_shape, "does not fit the architecture net"),
        (not_finite, "holds numbers that are not finite"),
        (one_tensor, "holds no state dictionary"),
        (numbers, "holds no state dictionary"),
        (garbage, "holds no plain weights"),
        (empty, "holds no plain weights"),
        (truncated, "holds no plain weights"),
        (foreign_zip, "holds no plain weights"),
        (folder, "holds no plain weights"),
        (nothing, "no such file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_are_not_imported(
    home: Home, net: Net, tmp_path: Path, write: Callable[[Net, Path], None], cause: str
) -> None:
    file = tmp_path / "weights.pt"
    write(net, file)
    message = fails(4, "registry", "import", file, "--json", *home.options)
    assert str(file) in message
    assert cause in message
    assert not file.with_suffix(".mark").exists()
    assert home.registry.numbers() == [1]


def test_weights_for_an_architecture_that_does_not_exist(home: Home, net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert "no such architecture" in fails(
        2, "registry", "import", tmp_path / "w.pt", "--model", "resnet", "--json", *home.options
    )


def test_the_spoilt_model_of_the_helpers_is_of_no_use(home: Home) -> None:
    """Tests of the gate rest on that."""
    republish(home.registry, spoil)
    assert document("eval", "--version", "2", *home.options)["accuracy"] == pytest.approx(0.1, abs=0.05)
