"""A small VGG-like network that trains fast: whitened input, batch normalisation, GELU; 2.5 million parameters.

Source: Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (arXiv 2404.00498). The widths are from
benchmarks/FINDINGS.md, "Training".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cifarctl.models.convolution import Convolution
from cifarctl.models.recipe import Recipe

PATCH = 2  # side of a whitened patch in pixels, as in the paper
EPSILON = 5e-4  # added to the variances when whitening, so that directions of little variance are not amplified

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

    The filters of `whiten` are fixed: the principal directions of patches of the training images and their negatives,
    see `whiten_by`. Only its bias is trained.
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
        """Compute the first layer's filters from normalised training images (N, 3, 32, 32)."""
        patches = nn.functional.unfold(images.float().contiguous(), PATCH).transpose(1, 2).flatten(0, 1)
        variances, directions = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))
        filters = (directions / (variances + EPSILON).sqrt()).T.flip(0).reshape(-1, 3, PATCH, PATCH)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of normalised images (B, 3, 32, 32)."""
        features = self.blocks(nn.functional.gelu(self.whiten(images)))
        # Not amax: torch.compile recomputes it in float32, where no value equals the bfloat16 maximum, and its gradient
        # becomes 0/0.
        highest = nn.functional.adaptive_max_pool2d(features, 1).flatten(1)
        logits: torch.Tensor = self.head(highest) / self.head.in_features
        return logits


def build(*, classes: int = 10, widths: Sequence[int] = (64, 256, 256)) -> nn.Module:
    """The network, without whitening filters yet; `widths` are the numbers of filters of its three blocks.

    The defaults are the paper's; they apply to versions whose manifests have no widths.

    Raises:
        ValueError: `widths` are not three positive integers.
    """
    if len(widths) != 3 or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"widths = {widths}: expected three positive integers")
    return Airbench(classes, widths)


def _block(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(
        _convolution(channels, filters), nn.MaxPool2d(2), _norm(filters), nn.GELU(),
        _convolution(filters, filters), _norm(filters), nn.GELU(),
    )  # fmt: skip


def _convolution(channels: int, filters: int) -> Convolution:
    """A convolution whose first `channels` filters are initialised to the identity (Dirac)."""
    layer = Convolution(channels, filters)
    nn.init.dirac_(layer.weight[:channels])
    return layer


def _norm(filters: int) -> nn.BatchNorm2d:
    """Batch normalisation with the scale fixed at 1; only the shift is trained."""
    layer = nn.BatchNorm2d(filters, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer
