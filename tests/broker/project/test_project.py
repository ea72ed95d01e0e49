"""Habits and import boundaries, as make, bash and ruff see them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


# --- package


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard") if shutil.which("git") else None
    if listed is None or listed.returncode != 0:
        pytest.skip("not a git checkout")
    place = re.compile(rb"(?<![\w.:/-])/(?:" + b"|".join([b"work", b"tmp", b"root", b"home", b"Users"]) + rb")/")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = [str(file.relative_to(ROOT)) for file in files if file.is_file() and place.search(file.read_bytes())]
    assert found == []


# --- habits


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_names_the_remedy_where_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 && exit\nexit 1\n')
    old.chmod(0o755)
    made = run("make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert made.returncode != 0
    assert "needs Python >= 3.10 and < 3.14" in made.stderr
    assert "is: Python 3.9.18" in made.stderr
    assert "make demo PYTHON=" in made.stderr
    assert not (tmp_path / "venv").exists()


BESIDE = "--numprocesses auto --maxprocesses 4 --dist worksteal"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_installs_once_and_passes_words_on(tmp_path: Path) -> None:
    """With stand-ins for the environment's programs that only write down how they were called."""
    calls = tmp_path / "calls"
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "lint-imports"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n')
        (programs / name).chmod(0o755)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    for habit, words in (("check", ""), ("test", "-k 'a or b'"), ("demo", "--json")):
        made = run("make", habit, f"VENV={tmp_path / 'venv'}", f"ARGS={words}")
        assert made.returncode == 0, made.stderr
    pip, *rest = calls.read_text().splitlines()
    assert pip.startswith("python -m pip install")
    assert pip.endswith("--editable .[dev]")
    assert rest == [
        "python -m ruff check .",
        "python -m ruff format --check .",
        "lint-imports ",
        "python -m mypy",
        f"python -m pytest {BESIDE} tests/unit tests/broker",
        f"python -m pytest {BESIDE} --maxprocesses 2 tests/kafka tests/slow",
        f"python -m pytest {BESIDE} tests/unit tests/broker -k a or b",
        "python -m cifarctl demo --json",
    ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_continuous_integration_can_be_started() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    parsed = run("bash", "-n", str(script))
    assert parsed.returncode == 0, parsed.stderr


# --- boundaries


BOUNDARIES = [
    ("flows", "import confluent_kafka", True),
    ("flows", "from confluent_kafka import Consumer", True),
    ("stream", "import confluent_kafka", False),
    ("flows", "import typer", True),
    ("online", "from rich.table import Table", True),
    ("cli", "import typer", False),
    ("ui", "from rich.table import Table", False),
    ("registry", "import os\nos.environ", True),
    ("cli", "import pickle", False),  # cli is free of these bans; S301 still forbids to load one
    ("registry", "import pickle", True),
    ("flows", "import torch\ntorch.load", True),
]


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff comes with the extra dev")
@pytest.mark.parametrize(("package", "code", "banned"), BOUNDARIES)
def test_import_boundaries(package: str, code: str, banned: bool) -> None:
    lint = (sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", "--quiet")
    checked = run(*lint, "--stdin-filename", f"cifarctl/{package}/probe.py", "-", input=code + "\n")
    assert checked.returncode == banned, checked.stdout + checked.stderr
    assert ("TID251" in checked.stdout) == banned
