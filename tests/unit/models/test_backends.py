"""Inference backends: the same answers from each."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import get_native_id
from typing import get_args

import numpy as np
import pytest
import torch
from helpers import Home
from inference import COMBINATIONS, MEAN, STD, build, network, pictures
from processes import until
from torch import nn

from cifarctl.models import backends
from cifarctl.models.backends import Backend, Network, Unusable
from cifarctl.models.predictor import Predictor
from cifarctl.registry.loading import load
from cifarctl.serving.agreement import compare
from cifarctl.serving.ranking import Choice
from cifarctl.settings import ServeSettings

pytestmark = pytest.mark.usefixtures("cache")


def test_the_setting_names_those_that_there_are() -> None:
    names = get_args(ServeSettings.model_fields["backend"].annotation)
    assert sorted(names) == sorted(["auto", *backends.names()])


def test_no_images_at_all(backend: Backend) -> None:
    assert backend(pictures(0)).shape == (0, 10)


def test_answers_stay_when_the_next_are_made(backend: Backend) -> None:
    first = backend(pictures(5, seed=1))
    before = first.clone()
    backend(pictures(5, seed=2))
    assert torch.equal(first, before)


def test_pixels_as_they_come(backend: Backend) -> None:
    pixels = pictures(12)
    plain = backend(pixels)
    assert torch.equal(backend(pixels.to(memory_format=torch.channels_last)), plain)
    assert torch.equal(backend(pixels.repeat_interleave(2, dim=0)[::2]), plain)
    assert torch.equal(
        backend(torch.from_numpy(np.frombuffer(bytearray(pixels.numpy().tobytes()), np.uint8)).view(-1, 3, 32, 32)),
        plain,
    )


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_the_trained_model_gets_the_same_classes(choice: Choice, trained: Home) -> None:
    loaded = load(trained.registry, 1)
    images = trained.dataset.train.take(trained.split.validation)
    found = build(choice, of=loaded.network())(images.pixels)
    assert compare(found, loaded.predictor()(images.pixels), images.labels).ok


def test_other_weights_of_the_architecture(backend: Backend, reference: Predictor) -> None:
    pixels = pictures(70)
    other = network(seed=1)
    renewed = backends.build(backend.name, other, backend.plan)
    assert (renewed.name, renewed.precision) == (backend.name, backend.precision)
    tolerance = 1e-5 if backend.precision == "float32" else 0.01
    torch.testing.assert_close(renewed(pixels), Predictor(other.model, MEAN, STD)(pixels), rtol=0, atol=tolerance)
    torch.testing.assert_close(backend(pixels), reference(pixels), rtol=0, atol=tolerance)


def threads() -> dict[int, tuple[str, float]]:
    """The state of every thread of this process, and the seconds of processor time that it has used."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def used_since(before: dict[int, tuple[str, float]]) -> list[float]:
    """Seconds that each thread has computed since."""
    return [used - before.get(thread, ("", 0.0))[1] for thread, (_, used) in threads().items()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc")
@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_one_thread_is_one_thread_and_nobody_spins(choice: Choice) -> None:
    running = build(choice)
    pixels = pictures(64)
    running(pixels)
    before = threads()
    while sum(used := used_since(before)) < 0.3:
        running(pixels)
    assert sum(used) < 1.3 * max(used), "several threads have computed"

    before = threads()
    until(lambda: not any(state == "R" for thread, (state, _) in threads().items() if thread != get_native_id()))
    assert sum(used_since(before)) < 0.1, "threads have computed before they slept"


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_a_model_that_cannot_be_run_is_told_in_a_line(choice: Choice) -> None:
    class Wrong(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    told = rf"^{choice.backend} returns the shape \((1, 3\) for 1 images$|64, 3\))"
    with pytest.raises(Unusable, match=told):
        build(choice, of=Network(Wrong().eval(), MEAN, STD, 10))


def test_a_failing_runtime_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel\nand a long explanation")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(Unusable, match=r"^onnxruntime fails here \(RuntimeError: no such kernel\)$"):
        build(Choice("onnxruntime", "float32"))
