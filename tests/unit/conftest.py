"""What all unit tests have in common: no Python process beside their own."""

from __future__ import annotations

import multiprocessing.process
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_python_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries may ask the system for fonts and processors; tests that start commands belong into tests/broker."""
    original = subprocess.Popen.__init__

    def start(self: subprocess.Popen[Any], command: Any, *arguments: Any, **options: Any) -> None:
        if not isinstance(command, str | bytes) and sys.executable in map(str, command):
            refuse()
        original(self, command, *arguments, **options)

    def refuse(*_: Any) -> None:
        pytest.fail("a unit test starts a process; it belongs into tests/broker")

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
