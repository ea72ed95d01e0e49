"""What all unit tests have in common: they start no process."""

from __future__ import annotations

import multiprocessing.process
import subprocess
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that start processes belong into tests/broker."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a unit test starts a process; move it to tests/broker")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
