"""Pictures of a training run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarctl import events
from cifarctl.ui.plots import draw_confusion, training_pictures

EPOCHS = [events.EpochDone(1, 2.1, 0.3, 4.0, 900.0), events.EpochDone(2, 1.4, 0.5, 4.0, 900.0)]
MISTAKE = events.Mistake(np.zeros((3, 32, 32), dtype=np.uint8), 0, 1, 0.9)


@pytest.mark.parametrize("epochs", [[], EPOCHS[:1], EPOCHS, [events.EpochDone(1, 2.1, None, 4.0, 900.0)]], ids=len)
@pytest.mark.parametrize("mistakes", [0, 1, 25])
def test_a_training_run_is_drawn_whatever_came_of_it(epochs: list[events.EpochDone], mistakes: int) -> None:
    report = events.TrainReport(epochs, ("cat", "dog"), 0.5, [[1, 1], [0, 0]], [MISTAKE] * mistakes)
    pictures = training_pictures(report)
    assert pictures.keys() == {"learning-curve.png", "confusion.png", "mistakes.png"}
    for picture in pictures.values():
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200


def test_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("$x^$", r"$\frac$", "\x1b[31m\n")
    confusion = [[1, 0, 0]] * 3
    path = tmp_path / "confusion.svg"
    draw_confusion(events.EvaluateResult(7, 0.5, 0.8, 0.05, dict.fromkeys(names, 0.5), confusion), path)
    drawn = path.read_text()
    for name in ("$x^$", r"$\frac$", r"\x1b[31m\n"):
        assert f"<!-- {name} -->" in drawn
    mistakes = [replace(MISTAKE, predicted=number, label=2) for number in range(2)]
    training_pictures(events.TrainReport(EPOCHS, names, 0.5, confusion, mistakes))
