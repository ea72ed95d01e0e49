"""A small VGG-like network that is quick to train: whitened input, batch normalisation, GELU; 2.5 million weights.

Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (arXiv 2404.00498).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cifarctl.models.convolution import Convolution
from cifarctl.models.recipe import Recipe

PATCH = 2
FADING = 5e-4  # added to the variances by which directions are divided, so that what hardly varies is not blown up

RECIPE = Recipe(
    optimiser="muon",
    early_side=24,
    batch_size=1000,
    learning_rate=0.24,
    weight_decay=2e-3,
    label_smoothing=0.2,
    tta="flip-shift",
    arguments={"widths": [64, 288, 288]},
)


class Airbench(nn.Module):
    """From normalised images (B, 3, 32, 32) to logits (B, classes).

    `whiten` is not trained but its bias: its filters are the principal directions of patches of the training images and
    their opposites, see `whiten_by`.
    """

    def __init__(self, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        directions = 3 * PATCH**2
        self.whiten = nn.Conv2d(3, 2 * directions, PATCH)
        self.whiten.weight.requires_grad_(False)
        self.blocks = nn.Sequential(*(_block(*widths) for widths in pairwise((2 * directions, *widths))))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def whiten_by(self, images: torch.Tensor) -> None:
        """Take the first layer's filters from normalised training images (N, 3, 32, 32)."""
        patches = nn.functional.unfold(images.float().contiguous(), PATCH).transpose(1, 2).flatten(0, 1)
        variances, directions = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))
        filters = (directions / (variances + FADING).sqrt()).T.flip(0).reshape(-1, 3, PATCH, PATCH)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        features = self.blocks(nn.functional.gelu(self.whiten(images)))
        # Not amax, whose gradient torch.compile makes 0/0: recomputed in float32, nothing equals its bfloat16 maximum.
        highest = nn.functional.adaptive_max_pool2d(features, 1).flatten(1)
        logits: torch.Tensor = self.head(highest) / self.head.in_features
        return logits


def build(*, classes: int = 10, widths: Sequence[int] = (64, 256, 256)) -> nn.Module:
    """The network, its first layer not yet whitened; `widths`: the filters of each of its blocks.

    The default are those of the paper, and of versions whose manifests name none.

    Raises:
        ValueError: these are no widths of three blocks.
    """
    if len(widths) != 3 or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"widths = {widths}: not three numbers of filters")
    return Airbench(classes, widths)


def _block(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(
        _convolution(channels, filters), nn.MaxPool2d(2), _norm(filters), nn.GELU(),
        _convolution(filters, filters), _norm(filters), nn.GELU(),
    )  # fmt: skip


def _convolution(channels: int, filters: int) -> Convolution:
    """The first filters hand their input on (Dirac), as far as there are channels."""
    layer = Convolution(channels, filters)
    nn.init.dirac_(layer.weight[:channels])
    return layer


def _norm(filters: int) -> nn.BatchNorm2d:
    """Its scale stays 1, only its shift is learned."""
    layer = nn.BatchNorm2d(filters, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer
