"""Running one side of a comparison as a process of its own, as a user would, and what that cost."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from cifarctl import cpus

CIFARCTL = [sys.executable, "-m", "cifarctl"]
TUTORIAL = [sys.executable, "-m", "benchmarks.tutorial"]
LOAD_AT_START = os.getloadavg()[0]  # before this process has measured anything


@dataclass(frozen=True)
class Ran:
    """A finished process: the JSON it printed, and seconds by the clock, seconds of CPU, peak memory in MiB."""

    result: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, accepted: Collection[int] = (0,)) -> Ran:
    """Run `command`, whose stdout is one JSON document, to its end; `environment` adds to this process's own.

    Raises:
        SystemExit: its exit code is not among `accepted`; what it said on stderr is shown.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
            env={**os.environ, **(environment or {})},
        )
        try:
            # wait4 tells the peak of this very process; getrusage(RUSAGE_CHILDREN) only the highest of all so far.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in accepted:
            complained.seek(0)
            words = complained.read().decode(errors="replace").strip()
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{words}")
        said.seek(0)
        result = json.loads(said.read().splitlines()[-1])
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return Ran(result, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


class Running:
    """A process in the background whose stdout is one JSON document; killed where its block ends before it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._said, self._complained = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._complained, start_new_session=True
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._said.close()
        self._complained.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def until(self, done: Callable[[], object], patience_s: float, step_s: float = 0.02) -> None:
        """Look every `step_s` seconds whether it is `done`.

        Raises:
            SystemExit: the process has ended before, or it takes longer than `patience_s`.
        """
        deadline = time.monotonic() + patience_s
        while not done():
            if not self.running:
                raise self._failure(f"ended with {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(f"took more than {patience_s:g} s")
            time.sleep(step_s)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, patience_s: float = 60.0) -> dict[str, Any]:
        """Ask it to end (SIGTERM); the JSON it printed.

        Raises:
            SystemExit: it failed or does not end.
        """
        self._process.terminate()
        return self.result(patience_s)

    def result(self, patience_s: float) -> dict[str, Any]:
        """Wait for its end; the JSON it printed.

        Raises:
            SystemExit: it failed or does not end.
        """
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {patience_s:g} s") from None
        if code != 0:
            raise self._failure(f"ended with {code}")
        self._said.seek(0)
        result: dict[str, Any] = json.loads(self._said.read().splitlines()[-1])
        return result

    def resident_mib(self) -> float:
        """Its memory that is in RAM: anonymous, file-backed and shared pages, as /proc tells (Linux)."""
        found = self._mib("VmRSS:")
        if found is None:
            raise self._failure("has no resident size any more")
        return found

    def most_anonymous_mib(self, patience_s: float, step_s: float = 0.2) -> float:
        """The most memory that was neither shared nor a mapped file until it ends, looked at every `step_s` seconds.

        Raises:
            SystemExit: it does not end.
        """
        most, deadline = 0.0, time.monotonic() + patience_s
        while self.running:
            most = max(most, self._mib("RssAnon:") or 0.0)
            if time.monotonic() > deadline:
                raise self._failure(f"took more than {patience_s:g} s")
            time.sleep(step_s)
        return most

    def _mib(self, field: str) -> float | None:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        return None

    def told(self) -> str:
        """What it has said on stderr so far."""
        # The process writes where this file's one offset is, so it must not be moved.
        size = os.fstat(self._complained.fileno()).st_size
        return os.pread(self._complained.fileno(), size, 0).decode(errors="replace")

    def _failure(self, what: str) -> SystemExit:
        return SystemExit(f"{' '.join(self._command)} {what}:\n{self.told()[-4000:].strip()}")


def machine() -> str:
    """A line about where a measurement was made, and whether others were at work there before it."""
    cores, load = cpus.count(), LOAD_AT_START
    warning = "; OTHERS ARE AT WORK HERE, these figures say little" if load > 0.3 * cores else ""
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    return f"{processor()}, {cores} cores; {versions}; load average {load:.2f}{warning}"


def processor() -> str:
    """The processor's name, as /proc/cpuinfo or else the platform has it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def bfloat16() -> bool:
    """Whether the processor computes in bfloat16 by itself (AVX-512, AMX or Arm), as /proc/cpuinfo has it."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def _cpuinfo(field: str) -> str:
    """The first processor's value of a field, empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
