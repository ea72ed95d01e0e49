"""Backends in processes of their own: signals, and a light start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Home
from inference import COMBINATIONS, MEAN, STD, build

from cifarctl.serving.ranking import Choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


# --- the choice


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_signals_reach_python_when_a_backend_has_been_let_go(choice: Choice) -> None:
    """OpenVINO gives the thread that loads its plugin a stack for signals, and takes it away wherever that ends."""
    build(choice)  # or a skip
    code = (
        "import gc, os, signal, threading\n"
        "import torch\n"
        "from cifarctl import models\n"
        "from cifarctl.models import backends\n"
        "from cifarctl.models.backends import Network, Plan\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('heard'))\n"
        f"network = Network(models.build('net', {{'classes': 10}}).eval(), {MEAN}, {STD}, 10)\n"
        f"plan = Plan({choice.precision!r}, torch.device('cpu'), 1, 128)\n"
        f"backends.precisions({choice.backend!r})\n"
        f"kept = [backends.build({choice.backend!r}, network, plan)]\n"
        "kept[0](torch.zeros(1, 3, 32, 32, dtype=torch.uint8))\n"
        "letting_go = threading.Thread(target=lambda: (kept.clear(), gc.collect()))\n"
        "letting_go.start()\n"
        "letting_go.join()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "heard\n"), ran.stderr


# --- a light start


HEAVY = ("torchvision", "scipy", "river", "matplotlib", "torch._dynamo", "openvino", "onnxruntime", "onnx", "rich")


def test_preparing_imports_nothing_heavy(trained: Home) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import cifarctl.flows.serve\n"
        "from cifarctl.serving.backend_selection import prepare\n"
        "from cifarctl.registry import Registry\n"
        "from cifarctl.registry.loading import load\n"
        "from cifarctl.settings import RegistrySettings, ServeSettings\n"
        f"registry = Registry(RegistrySettings(dir=Path({str(trained.registry.dir)!r})))\n"
        "prepare(load(registry, 1), registry, ServeSettings(backend='eager'), 1)\n"
        f"print(*sorted({{*{HEAVY!r}, 'cifarctl.data'}} & sys.modules.keys()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == ""
