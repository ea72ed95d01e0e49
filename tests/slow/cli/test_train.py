"""`train` from the command line, in earnest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import document
from helpers import cifarctl, open_registry, small_data, small_train
from PIL import Image

from cifarctl import events

# --- 130: interrupted


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_a_checkpoint(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    command = [
        sys.executable, "-m", "cifarctl", "train", "--json", "--epochs", "100000", *small_data(500), *small_train(),
        f"--set=registry.dir={registry}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                if line.startswith("epoch 2/"):
                    break
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "--resume" in err
    assert len(list((registry / "training").glob("*.safetensors"))) == 1
    assert open_registry(registry).numbers() == []


# --- JSON


def test_the_document_of_train(tmp_path: Path) -> None:
    options = [*small_data(500), *small_train(), f"--set=registry.dir={tmp_path / 'registry'}"]
    found = document("train", "--epochs", "2", *options)
    assert {
        "version", "model", "epochs", "train_images", "validation_accuracy", "test_accuracy", "seconds",
        "images_per_second", "promoted",
    } <= found.keys()  # fmt: skip
    assert found.keys() == {field.name for field in fields(events.TrainResult)}
    assert (found["version"], found["model"], found["epochs"], found["train_images"], found["promoted"]) == (
        1, "net", 2, 350, True,
    )  # fmt: skip
    assert 0 <= found["test_accuracy"] <= 1
    again = document("train", "--epochs", "1", "--no-promote", "--full", "--seed", "3", *options)
    assert (again["version"], again["train_images"], again["validation_accuracy"], again["promoted"]) == (
        2, 500, None, False,
    )  # fmt: skip
    assert open_registry(tmp_path / "registry").manifest(2).settings["seed"] == 3


# --- registry


def test_a_training_leaves_its_figures_and_pictures_with_the_version(tmp_path: Path) -> None:
    options = [f"--set=registry.dir={tmp_path / 'registry'}", *small_data(500), *small_train()]
    trained = document("train", "--epochs", "2", *options)
    plots = [Path(plot) for plot in document("registry", "show", str(trained["version"]), *options)["plots"]]
    names = {"confusion.png", "learning-curve.png", "metrics.jsonl", "mistakes.png"}
    assert {plot.name for plot in plots} == names
    shown = cifarctl("registry", "show", "1", *options).stdout
    for plot in plots:
        assert plot.name in shown
        if plot.suffix == ".png":
            with Image.open(plot) as picture:
                colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert len(colours) > 100, "more is drawn than axes"
    (metrics,) = (plot for plot in plots if plot.suffix == ".jsonl")
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert epochs[-1]["validation_accuracy"] == pytest.approx(trained["validation_accuracy"])
