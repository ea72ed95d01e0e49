"""Augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cifarctl.data import augment


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (2, False), (2, True), (4, True), (31, False)])
def test_augment_crops_the_reflected_image(padding: int, flip: bool) -> None:
    pixels = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = pixels.clone()
    augmented = augment(pixels, torch.Generator().manual_seed(2), crop_padding=padding, flip=flip)
    assert torch.equal(pixels, before)
    assert augmented.dtype == torch.uint8
    assert augmented.shape == pixels.shape
    border = ((0, 0), (padding, padding), (padding, padding))
    for original, result in zip(pixels.numpy(), augmented.numpy(), strict=True):
        padded = np.pad(original, border, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2))
        plain = (windows == result[:, None, None]).all(axis=(0, 3, 4)).any()
        mirrored = (windows == result[:, None, None, :, ::-1]).all(axis=(0, 3, 4)).any()
        assert plain or (flip and mirrored)


def test_augment_reaches_every_offset_equally_and_mirrors_half() -> None:
    image = torch.arange(32 * 32).remainder(251).to(torch.uint8).view(1, 1, 32, 32)
    augmented = augment(image.expand(4000, 3, 32, 32), torch.Generator().manual_seed(0), crop_padding=1, flip=True)
    kinds, counts = augmented.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # nine places, twice
    assert counts.min() > 4000 / 18 * 0.7
    assert counts.max() < 4000 / 18 * 1.3


def test_augment_repeats_for_a_generator_and_may_do_nothing() -> None:
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    first, again = (augment(pixels, torch.Generator().manual_seed(3), crop_padding=4, flip=True) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(augment(pixels, torch.Generator(), crop_padding=0, flip=False), pixels)
    assert augment(pixels[:0], torch.Generator(), crop_padding=2, flip=True).shape == (0, 3, 32, 32)
