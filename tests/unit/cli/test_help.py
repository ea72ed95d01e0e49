"""Help: every command explains itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from helpers import cifarctl

from cifarctl.cli import app

GROUPS = {("registry",), ("dead-letters",)}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as what one types."""
    group = typer.main.get_command(app) if group is None else group
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


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
