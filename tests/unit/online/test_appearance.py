"""Appearance transfer: reference images that look like the stream."""

from __future__ import annotations

import pytest
import torch
from lineages import MEAN, STD, seeded

from cifarctl.data import synthetic
from cifarctl.data.operations import OPERATIONS
from cifarctl.models.preprocess import normalise
from cifarctl.online.appearance import Appearance, AppearanceTransfer, half_and_half
from cifarctl.online.colour import Colour

INVERTED = Colour(-torch.eye(3), torch.tensor([(1 - 2 * mean) / std for mean, std in zip(MEAN, STD, strict=True)]))


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    """Normalised images of training."""
    return normalise(synthetic.draw(400, seed=0).pixels, MEAN, STD)


def stream(operation: str = "noise", strength: float = 0.0) -> torch.Tensor:
    """Other images of the same kind, normalised, after an operation."""
    pixels = synthetic.draw(250, seed=7).pixels
    generators = [seeded(number) for number in range(len(pixels))]
    return normalise(OPERATIONS[operation].apply(pixels, strength, generators), MEAN, STD)


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(0, 2, 3))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How differently pixels go together in the blocks of two kinds of images."""
    return float((Appearance.of(one).covariance - Appearance.of(other).covariance).norm())


@pytest.mark.parametrize(
    ("operation", "strength"),
    [("noise", 0.2), ("blur", 1.5), ("contrast", 0.4), ("brightness", 1.5), ("pixelate", 12), ("jpeg", 8)],
)
def test_reference_images_get_the_look_of_the_stream(reference: torch.Tensor, operation: str, strength: float) -> None:
    window = stream(operation, strength)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(window))(reference, seeded(0))
    torch.testing.assert_close(mean_colour(shown), mean_colour(window), atol=0.06, rtol=0)
    assert apart(shown, window) < 0.5 * apart(reference, window)  # values that would be out of range are cut
    assert bool((shown.amin(dim=(0, 2, 3)) >= window.amin(dim=(0, 2, 3))).all())
    assert bool((shown.amax(dim=(0, 2, 3)) <= window.amax(dim=(0, 2, 3))).all())


def test_an_unchanged_stream_leaves_reference_images_nearly_alone(reference: torch.Tensor) -> None:
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()))(reference, seeded(0))
    assert float((shown - reference).square().mean().sqrt()) < 0.3 * float(reference.std())


def test_colours_that_have_changed_are_changed_first(reference: torch.Tensor) -> None:
    window = normalise(255 - synthetic.draw(250, seed=7).pixels, MEAN, STD)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(window), INVERTED)(reference, seeded(0))
    assert float((shown - INVERTED(reference)).square().mean().sqrt()) < 0.3 * float(reference.std())


def test_the_transfer_is_determined_by_the_generator(reference: torch.Tensor) -> None:
    look = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream("noise", 0.2)))
    before = reference.clone()
    first, again, other = (look(reference[:20], seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(reference, before)
    assert first.shape == (20, 3, 32, 32)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_a_coarse_stream_makes_coarse_transferred_images(reference: torch.Tensor) -> None:
    def within(images: torch.Tensor) -> float:
        """Mean square of the steps between the two columns of each coarse pixel."""
        return float((images[..., 0::2] - images[..., 1::2]).square().mean())

    coarse = stream().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(coarse))(reference, seeded(0))
    assert within(shown) < 0.02 * within(reference)


def test_half_of_a_single_image_is_none(reference: torch.Tensor) -> None:
    look = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()))
    assert half_and_half(look, look)(reference[:1], seeded(0)).shape == (1, 3, 32, 32)
    assert half_and_half(look, look)(reference[:5], seeded(0)).shape == (5, 3, 32, 32)


def test_a_single_image_of_the_stream_suffices(reference: torch.Tensor) -> None:
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()[:1]))(reference, seeded(0))
    assert bool(shown.isfinite().all())
