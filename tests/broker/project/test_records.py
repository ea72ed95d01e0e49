"""`make bench`, and brokers of benchmarks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import bed, record
from benchmarks.bed import Requirement

MET = Requirement("made up : half", 1.23456, most=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are recorded, as `make bench` asks for it."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "results"))
    return tmp_path / "results"


def test_the_embedded_broker_is_not_recorded(folder: Path) -> None:
    with bed.broker("embedded"):
        pass
    bed.verdict("stream", [MET])
    assert not folder.exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_bench_records(tmp_path: Path) -> None:
    """With a stand-in for Python that writes down how it was called; one benchmark misses something."""
    calls, programs = tmp_path / "calls", tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    script = f'#!/bin/sh\necho "$2 $BENCH_RESULTS" >> {calls}\n[ "$2" != benchmarks.memory ]\n'
    (programs / "python").write_text(script)
    (programs / "python").chmod(0o755)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    made = subprocess.run(
        ["make", "bench", f"VENV={tmp_path / 'venv'}"], cwd=record.ROOT, capture_output=True, text=True
    )
    assert made.returncode != 0
    ran = [line.split() for line in calls.read_text().splitlines() if line.startswith("benchmarks.")]
    modules = [f"benchmarks.{name}" for name in record.ORDER if name != "eval"]
    assert ran == [[name, "benchmarks/results"] for name in modules] + [["benchmarks.record"]]
