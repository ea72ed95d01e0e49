"""Libraries that run networks report home by themselves; with us they look nothing up and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Home

from cifarctl.models import backends

FAST = [name for name in backends.names() if backends.find(name).packages]

# In a process of its own, since a library reports when it is first imported. Python's own look-ups are written down;
# what a library does in C is seen by strace alone.
SCRIPT = """
import socket, sys
def noted(host, *rest, **options):
    print("LOOKED UP", host, flush=True)
    raise socket.gaierror(host)
socket.getaddrinfo = socket.gethostbyname = noted

import time
from pathlib import Path
from cifarctl.serving.backend_selection import prepare
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.settings import RegistrySettings, ServeSettings
registry = Registry(RegistrySettings(dir=Path(sys.argv[1])))
options = ServeSettings(device="cpu")
print("RUNS", prepare(load(registry, "production"), registry, options, 1).backend.name, flush=True)
print("LOADED", *sorted({"openvino", "onnxruntime"} & set(sys.modules)), flush=True)
import onnxscript  # as the newer exporter does
time.sleep(1)  # reports are sent from threads of their own
"""


def test_nothing_is_looked_up_or_left_behind(trained: Home, tmp_path: Path) -> None:
    if absent := [package for name in FAST for package in backends.missing(backends.find(name))]:
        pytest.skip(f"{' and '.join(absent)} not installed")
    house = tmp_path / "home"
    house.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "CI"))}
    trace = tmp_path / "trace"
    strace = [shutil.which("strace") or "", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", str(trace)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(trained.registry.dir)]
    found = subprocess.run(
        [*strace, *command] if strace[0] and may_trace(strace, tmp_path) else command,
        env=environment | {"HOME": str(house)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr
    assert "RUNS" in found.stdout
    assert "LOADED onnxruntime openvino" in found.stdout
    assert "LOOKED UP" not in found.stdout
    left = [path.relative_to(house) for path in house.rglob("*") if path.is_file()]
    assert [path for path in left if path.parts[:2] != (".cache", "cifarctl")] == []
    calls = trace.read_text(errors="replace").splitlines() if trace.exists() else []
    assert [call for call in calls if "AF_INET" in call] == []


def may_trace(strace: list[str], folder: Path) -> bool:
    """Whether this container lets us trace."""
    return subprocess.run([*strace, "true"], cwd=folder, capture_output=True, check=False).returncode == 0
