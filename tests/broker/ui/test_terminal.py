"""Streams of all kinds under the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import draft, open_registry


@pytest.fixture
def home(tmp_path: Path) -> list[str]:
    """Options that lead to a registry of one version, which nobody can load."""
    registry = open_registry(tmp_path / "registry")
    registry.publish(draft(), b"weights")
    registry.promote(1, who="\x1b[1mcli", why="fine\n01-01 00:00 UTC  production\u202e")
    return [f"--set=registry.dir={registry.dir}"]


def run(*arguments: str | bytes, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line through a shell, which closes and narrows what `shell` says."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-m", "cifarctl", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_an_output_that_cannot_encode_our_symbols(home: list[str], encoding: str) -> None:
    found = run("registry", "list", *home, PYTHONIOENCODING=encoding)
    assert (found.returncode, found.stderr) == (0, b"")
    assert b" net " in found.stdout


@pytest.mark.parametrize("columns", ["0", "1", "19", "²"])
def test_no_width_is_as_if_none_were_said(home: list[str], columns: str) -> None:
    found = run("registry", "list", *home, COLUMNS=columns, LINES="0")
    assert b"production" in found.stdout
    assert found.returncode == 0


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_not_an_error(home: list[str], shell: str) -> None:
    found = run("registry", "list", *home, shell=shell)
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["config"], ["config", "--json"], ["--help"]])
def test_what_cannot_be_written_is_told(arguments: list[str]) -> None:
    found = run(*arguments, shell="> /dev/full")
    assert found.returncode == 1
    assert found.stderr == b"cifarctl: cannot write the output: No space left on device\n"


def test_a_reader_of_the_errors_that_goes_away(home: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cifarctl", "registry", "show", "99", *home]
    found = subprocess.run(command, stdout=write, stderr=write, timeout=60, check=False)
    os.close(write)
    assert found.returncode == 4


def test_a_reason_that_is_not_text_is_a_usage_error(home: list[str]) -> None:
    found = run("registry", "promote", "1", "--why", b"\xff", *home)
    assert found.returncode == 2
    assert found.stderr == b"cifarctl: --why \\xff: expected UTF-8 text\n"
