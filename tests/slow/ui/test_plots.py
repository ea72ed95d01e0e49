"""Pictures of a training run, whatever came of it."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from screens import EPOCHS, MISTAKE

from cifarctl import events
from cifarctl.ui.plots import training_pictures


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
