"""Several processes that train one model: what torchrun starts, what becomes of it, and what happens when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import open_registry, small_data, small_train

from cifarctl.registry import checkpoint
from cifarctl.registry.loading import load

#: Two processes train airbench on two cores without bfloat16: minutes, where others are at work.
PATIENCE_S = 600.0

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WORDS = ["train", *small_data(500), *small_train()]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def start(folder: Path, *words: str, torchrun: list[str] | None = None) -> subprocess.Popen[str]:
    """``cifarctl train`` in a registry in `folder`, by torchrun or, with an empty list, as one process."""
    by = [*RUN, *torchrun] if torchrun is not None else [sys.executable]
    return subprocess.Popen(
        [*by, "-m", "cifarctl", *WORDS, f"--set=registry.dir={folder / 'registry'}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def trained(folder: Path, *words: str, torchrun: list[str] | None = None) -> Any:
    out, err = start(folder, "--json", *words, torchrun=torchrun).communicate(timeout=PATIENCE_S)
    assert out, err
    return json.loads(out)  # one document, although there are two processes


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """The one that one process trains, where nothing is drawn by the process: flips go by the image.

    A batch of 33 has parts of 17 and 16 images.
    """
    both, alone = (tmp_path / name for name in ("both", "alone"))
    words = ("--epochs=2", "--set=train.crop_padding=0", "--set=train.batch_size=33")
    models, metrics = [], []
    for folder, torchrun in ((both, []), (alone, None)):
        folder.mkdir()
        document = trained(folder, *words, torchrun=torchrun)
        assert (document["version"], document["epochs"], document["train_images"]) == (1, 2, 350)
        registry = open_registry(folder / "registry")
        assert registry.numbers() == [1]
        models.append(load(registry, 1).model)
        (lines,) = (path for path in registry.plots(1) if path.name == "metrics.jsonl")
        metrics.append([json.loads(line)["loss"] for line in lines.read_text().splitlines()])
    assert metrics[0] == pytest.approx(metrics[1], abs=5e-3)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        # Rounding moves the weights by 1e-4 at most; leaving out how large the parts are moves them by 3e-3.
        assert (one - other).abs().mean() < 5e-4


def test_two_processes_train_a_strong_model(tmp_path: Path) -> None:
    """Each normalises by its own half of a batch, so that losses are those of one process only about."""
    both, alone = (tmp_path / name for name in ("both", "alone"))
    words = ("--model=airbench", "--epochs=2", "--set=train.crop_padding=0", "--set=train.batch_size=50")
    losses, accuracies = [], []
    for folder, torchrun in ((both, []), (alone, None)):
        folder.mkdir()
        accuracies.append(trained(folder, *words, torchrun=torchrun)["test_accuracy_tta"])
        (lines,) = (path for path in open_registry(folder / "registry").plots(1) if path.name == "metrics.jsonl")
        losses.append([json.loads(line)["loss"] for line in lines.read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], abs=0.06)
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Runs that are to be disturbed; what is left of them ends with the test."""
    runs: list[subprocess.Popen[str]] = []
    yield runs
    for run in runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def members(run: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started, the first one first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(line.split("=", 1) for line in path.read_text().split("\0") if "=" in line)
            parent = int((path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent == run.pid and "RANK" in variables:
            found.append((int(variables["RANK"]), int(path.parent.name)))
    return [pid for _, pid in sorted(found)]


def await_epoch(folder: Path, run: subprocess.Popen[str]) -> None:
    """Wait until a whole epoch is in the checkpoint."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and run.poll() is None:
        for path in (folder / "registry" / "training").glob("*.safetensors"):
            found = checkpoint.load(path)
            if found is not None and found[1]["step"]:
                return
        time.sleep(0.05)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    pytest.fail(f"no epoch was finished; {run.communicate()}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_dies_the_other_says_so_and_the_checkpoint_stays(
    rank: int, tmp_path: Path, long_run: list[subprocess.Popen[str]]
) -> None:
    run = start(tmp_path, "--epochs=2000", torchrun=[])
    long_run.append(run)
    await_epoch(tmp_path, run)
    os.kill(members(run)[rank], signal.SIGKILL)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode != 0
    assert "cifarctl: another process of this run has ended; the last checkpoint is kept" in err
    assert open_registry(tmp_path / "registry").numbers() == []
    (kept,) = (tmp_path / "registry" / "training").glob("*.safetensors")
    found = checkpoint.load(kept)
    assert found is not None
    assert found[1]["step"] > 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_what_torchrun_starts_again_goes_on_from_the_checkpoint(
    tmp_path: Path, long_run: list[subprocess.Popen[str]]
) -> None:
    run = start(tmp_path, "--epochs=20", "--json", torchrun=["--max-restarts=1", "--monitor-interval=0.1"])
    long_run.append(run)
    await_epoch(tmp_path, run)
    os.kill(members(run)[1], signal.SIGKILL)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert "resumed at epoch" in err
    assert json.loads(out)["epochs"] == 20
