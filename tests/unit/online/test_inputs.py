"""Drift of the inputs."""

from __future__ import annotations

import pytest
import torch
from helpers import load_data
from movements import PICTURES, moved_at, moving

from cifarctl.data import Images
from cifarctl.online.inputs import MIN_IMAGES, WINDOW, InputMonitor, Movement, features

# --- drift of the inputs


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    """Validation images, and others of the same kind."""
    dataset, split = load_data()
    return dataset.train.take(split.validation), dataset.train.take(split.stream)


def test_images_of_the_same_kind_have_not_moved(images: tuple[Images, Images]) -> None:
    validation, stream = images
    monitor = InputMonitor(validation)
    assert not monitor.moved(validation)
    for start in range(0, 400, 100):
        assert not monitor.moved(stream.take(torch.arange(start, start + 100)))


@pytest.mark.parametrize("change", ["invert", "swap", "noise", "dark", "flat"])
def test_images_that_look_otherwise_have_moved(images: tuple[Images, Images], change: str) -> None:
    validation, stream = images
    pixels = stream.pixels[:200]
    changed = {
        "invert": lambda: 255 - pixels,
        "swap": lambda: torch.roll(pixels, 1, dims=1) // 2,
        "noise": lambda: (pixels + 30 * torch.randn(pixels.shape)).clamp(0, 255).to(torch.uint8),
        "dark": lambda: pixels // 2,
        "flat": lambda: torch.full_like(pixels, 128),
    }[change]()
    assert InputMonitor(validation).moved(Images(changed, stream.labels[:200]))


def test_too_few_images_say_nothing(images: tuple[Images, Images]) -> None:
    validation, stream = images
    monitor = InputMonitor(validation)
    inverted = Images(255 - stream.pixels, stream.labels)
    assert not monitor.moved(inverted.take(torch.arange(MIN_IMAGES - 1)))
    assert monitor.moved(inverted.take(torch.arange(MIN_IMAGES)))
    assert not monitor.moved(inverted.take(torch.arange(0)))


def test_features_of_images_are_finite(images: tuple[Images, Images]) -> None:
    validation, _ = images
    found = features(validation.pixels)
    assert found.shape == (len(validation), 9)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[:, 0], validation.pixels[:, 0].float().mean(dim=(1, 2)) / 255)


def test_the_labels_do_not_matter(images: tuple[Images, Images]) -> None:
    validation, stream = images
    relabelled = Images(stream.pixels[:200], torch.zeros(200, dtype=torch.int64))
    assert not InputMonitor(validation).moved(relabelled)


# --- inputs that move in the course of a stream


def test_inputs_that_move_are_noticed_soon_and_dated() -> None:
    first, second = moved_at(Movement(), moving(), [25])
    for (told, began), change in zip((first, second), (300, 500), strict=True):
        assert change < told <= change + WINDOW
        assert abs(began - change) <= 10


def test_inputs_that_stay_are_not_said_to_move() -> None:
    assert moved_at(Movement(), PICTURES, [25]) == []
