"""Running one side of a comparison as a process of its own, as a user would, and what that cost."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

CIFARCTL = [sys.executable, "-m", "cifarctl"]
TUTORIAL = [sys.executable, "-m", "benchmarks.tutorial"]


@dataclass(frozen=True)
class Ran:
    """A finished process: the JSON it printed, and seconds by the clock, seconds of CPU, peak memory in MiB."""

    result: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(command: Sequence[str]) -> Ran:
    """Run `command`, whose stdout is one JSON document, to its end.

    Raises:
        SystemExit: it failed; what it said on stderr is shown.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        try:
            # wait4 tells the peak of this very process; getrusage(RUSAGE_CHILDREN) only the highest of all so far.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            complained.seek(0)
            words = complained.read().decode(errors="replace").strip()
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{words}")
        said.seek(0)
        result = json.loads(said.read().splitlines()[-1])
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return Ran(result, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def machine() -> str:
    """A line about where a measurement was made, and whether others were at work there before it."""
    cores = os.cpu_count() or 1
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    warning = "; OTHERS ARE AT WORK HERE, these figures say little" if load > 0.3 * cores else ""
    python = platform.python_version()
    return f"{model}, {cores} cores; Python {python}, torch {version('torch')}; load average {load:.2f}{warning}"
