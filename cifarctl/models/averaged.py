"""Test-time augmentation: the mean of a network's logits over variants of an image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cifarctl.models.recipe import Tta


class Averaged(nn.Module):
    """A network with test-time augmentation; in training mode it is the network alone.

    With ``flip`` the logits are the mean over the image and its mirror image. With ``flip-shift`` that mean has weight
    one half, and the same means of the image shifted diagonally by one pixel, in two opposite directions, have one
    quarter each. Source: Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU.
    """

    def __init__(self, network: nn.Module, tta: Tta) -> None:
        super().__init__()
        self.network, self.tta = network, tta

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        if self.training or self.tta == "none":
            return self._plain(images)
        here = self._mirrored(images)
        if self.tta == "flip":
            return here
        wide = functional.pad(images, (1, 1, 1, 1), "reflect")
        return here / 2 + (self._mirrored(wide[:, :, :-2, :-2]) + self._mirrored(wide[:, :, 2:, 2:])) / 4

    def _mirrored(self, images: torch.Tensor) -> torch.Tensor:
        return (self._plain(images) + self._plain(images.flip(3))) / 2

    def _plain(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits
