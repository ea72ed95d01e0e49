"""The commands of the README run."""

from __future__ import annotations

import faulthandler
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import cifarctl
from processes import Process
from readme_commands import commands

from cifarctl import models
from cifarctl.settings import KafkaSettings

HUNG = 1200  # seconds
OUTCOMES = {"retrain": {0, 6, 7}}  # what the gate says depends on the few images of this test


def endless(words: list[str]) -> bool:
    """Whether the command runs until it is told to stop."""
    name = words[1]
    return (
        name == "broker"
        or (name == "serve" and not {"--max-messages", "--idle-timeout"} & set(words))
        or (name == "retrain" and "--follow" in words)
        or (name == "produce" and "--count" not in words)
    )


@pytest.fixture
def folder(kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, this process and others, with small settings in the environment."""
    torch.save(models.build("net", {"classes": 10}).state_dict(), tmp_path / "tutorial.pt")
    monkeypatch.chdir(tmp_path)
    small = {
        "CIFARCTL_DATA__SOURCE": "synthetic",
        "CIFARCTL_DATA__SYNTHETIC_IMAGES": "1000",
        "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "CIFARCTL_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "CIFARCTL_KAFKA__GROUP_ID": kafka.group_id,
        "CIFARCTL_KAFKA__SESSION_TIMEOUT_MS": "1500",
        "CIFARCTL_ONLINE__STEPS": "5",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in small.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def background() -> Iterator[list[Process]]:
    """What runs until told to; the whole run of tests is not to hang for ever with one of them."""
    running: list[Process] = []
    faulthandler.dump_traceback_later(HUNG, exit=True)
    yield running
    faulthandler.cancel_dump_traceback_later()
    for process in running:
        process.clean_up()


@pytest.mark.long
def test_every_command_runs(folder: Path, background: list[Process]) -> None:
    """What ends by itself in this process, which has long imported everything; what does not in one of its own."""
    for number, line in enumerate(commands()):
        words = shlex.split(line)
        if words[1] == "demo":  # minutes long: CI runs it by itself
            continue
        if endless(words):
            process = Process(tuple(words[1:]), {}, folder, f"{number}-{words[1]}")
            background.append(process)
            process.until(lambda process=process: process.out or process.err)  # it has begun, and hears signals
            continue
        if words[1] in {"serve", "retrain"}:
            stop(background)
            count = words[words.index("--max-messages") + 1] if "--max-messages" in words else "200"
            assert cifarctl("produce", "--rate", "0", "--count", count, "--quiet").exit_code == 0
        done = cifarctl(*words[1:])
        assert done.exit_code in OUTCOMES.get(words[1], {0}), f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, line
    stop(background)


def stop(background: list[Process]) -> None:
    """End what runs until told to, and expect a clean farewell."""
    for process in background:
        process.signal(signal.SIGTERM)
    for process in background:
        assert process.wait() == 0, process.err
        assert "Traceback" not in process.err
    background.clear()
