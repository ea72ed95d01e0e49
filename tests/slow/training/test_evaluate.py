"""Confusion matrices of all sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from cifarctl.events import EvaluateResult
from cifarctl.ui.plots import draw_confusion


@pytest.mark.parametrize("classes", [2, 10, 25])
def test_the_confusion_matrix_is_drawn(tmp_path: Path, classes: int) -> None:
    confusion = torch.randint(0, 100, (classes, classes), generator=torch.Generator().manual_seed(0)).tolist()
    confusion[1] = [0] * classes  # a class without images
    names = {f"class {number}": 0.5 for number in range(classes)}
    result = EvaluateResult(version=3, accuracy=0.5, loss=1.0, ece=0.1, per_class=names, confusion=confusion)
    path = tmp_path / "confusion.png"
    draw_confusion(result, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        shades = picture.convert("L").getcolors(1 << 24)
        assert shades is not None
        assert len(shades) > 20  # there is something in it
