"""Synthetic images."""

from __future__ import annotations

import torch

from cifarctl.data import Images, load, synthetic
from cifarctl.settings import DataSettings


def test_synthetic_images_repeat_for_a_seed() -> None:
    first, again, other = synthetic.draw(60, 1), synthetic.draw(60, 1), synthetic.draw(60, 2)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, other.pixels)


def test_synthetic_classes_are_balanced_and_mixed() -> None:
    images = synthetic.draw(503, 0)
    counts = images.labels.bincount()
    assert len(counts) == len(synthetic.CLASSES) == len(set(synthetic.CLASSES)) == 10
    assert counts.max() - counts.min() <= 1
    assert images.labels[:50].unique().numel() > 5
    assert images.pixels.shape == (503, 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    # No image is blank: the picture differs from its own mean by more than the noise does.
    assert images.pixels.float().std(dim=(1, 2, 3)).min() > 5


def test_synthetic_source_says_that_it_is_not_cifar10() -> None:
    data = load(DataSettings(source="synthetic", synthetic_images=500))
    assert (data.name, len(data.train), len(data.test)) == ("synthetic", 500, 100)
    assert data.notice is not None
    assert "not CIFAR-10's" in data.notice
    assert data.classes == synthetic.CLASSES
    assert not torch.equal(data.train.pixels[:100], data.test.pixels)


def test_images_take_copies() -> None:
    images = Images(torch.zeros((4, 3, 32, 32), dtype=torch.uint8), torch.arange(4))
    taken = images.take(torch.tensor([3, 1]))
    taken.pixels.fill_(9)
    assert taken.labels.tolist() == [3, 1]
    assert len(taken) == 2
    assert images.pixels.max() == 0
