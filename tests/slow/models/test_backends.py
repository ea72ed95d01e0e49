"""Inference backends: batches of any size, averaged answers, the newer exporter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from inference import COMBINATIONS, CPU, MEAN, STD, build, pictures

from cifarctl import models
from cifarctl.models.backends import Backend, Network
from cifarctl.models.predictor import Predictor
from cifarctl.serving.ranking import Choice

SWEEP = (1, 2, 3, 31, 63, 64, 65, 100, 127, 128, 129, 200)


pytestmark = pytest.mark.usefixtures("cache")


def test_the_same_probabilities_for_any_number_of_images(backend: Backend, reference: Predictor) -> None:
    pixels = pictures(max(SWEEP))
    expected = reference(pixels)
    tolerance = 1e-5 if backend.precision == "float32" else 0.01
    for count in SWEEP:
        found = backend(pixels[:count])
        assert found.dtype == torch.float32
        assert found.device == CPU
        assert not found.requires_grad
        torch.testing.assert_close(found, expected[:count], rtol=0, atol=tolerance)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(count), rtol=0, atol=1e-4)


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_answers_that_are_averaged(choice: Choice) -> None:
    """The strong model's: mirrored, and moved by a pixel."""
    model = models.build("airbench", {"classes": 10, "tta": "flip-shift", "widths": (8, 16, 16)}).eval()
    pixels = pictures(130)
    found = build(choice, of=Network(model, MEAN, STD, 10))(pixels)
    tolerance = 1e-5 if choice.precision == "float32" else 0.01
    torch.testing.assert_close(found, Predictor(model, MEAN, STD)(pixels), rtol=0, atol=tolerance)


@pytest.mark.parametrize("choice", [Choice("onnxruntime", "float32"), Choice("openvino", "float32")], ids=str)
def test_the_newer_exporter_steps_in(choice: Choice, monkeypatch: pytest.MonkeyPatch, reference: Predictor) -> None:
    pytest.importorskip("onnxscript")
    export = torch.onnx.export

    def without_the_older(*arguments: Any, dynamo: bool, **options: Any) -> Any:
        if not dynamo:
            raise TypeError("torch.onnx.export has no TorchScript exporter any more")
        return export(*arguments, dynamo=True, **options)

    monkeypatch.setattr(torch.onnx, "export", without_the_older)
    pixels = pictures(65)
    torch.testing.assert_close(build(choice)(pixels), reference(pixels), rtol=0, atol=1e-5)
