"""Images as uint8 tensors, in memory or memory-mapped, decoded once and then indexed."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Images:
    """Labelled images: `pixels` (N, 3, 32, 32) uint8, `labels` (N,) int64."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Images:
        """Copies of the images at `index` (M,) int64, in its order."""
        return Images(self.pixels[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A data set; `classes[label]` is the name of a label.

    `notice` is a warning for the user, if any: for example, that the images are synthetic and accuracies on them are
    not CIFAR-10's.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    notice: str | None
