"""The command line as a process: what it imports, signals, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import Home

HEAVY = ("torch", "torchvision", "numpy", "pydantic_settings", "confluent_kafka", "river", "scipy", "matplotlib")


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cifarctl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


# --- help


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


def test_a_reader_that_goes_away_is_not_an_error(home: Home) -> None:
    """As `| head` does. The pipe's other end is closed before the command can write."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cifarctl", "registry", "list", "--json", *home.options]
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")
