"""A process that may use one core only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers import small_data

NOBODY = ["--set=kafka.bootstrap_servers=127.0.0.1:1", "--set=kafka.timeout_s=0.3"]
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two CPUs to choose from"
)


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 CPUs, all of which the process may run on."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)


def on_one_core(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the first CPU that this process may use."""
    core = min(os.sched_getaffinity(0))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


@needs_affinity
def test_one_core_is_seen_by_doctor() -> None:
    found = on_one_core("-m", "cifarctl", "doctor", "--json", *small_data(500), *NOBODY)
    device = next(check for check in json.loads(found.stdout) if check["check"] == "device")
    assert f"1 core of {os.cpu_count()};" in device["finding"]
