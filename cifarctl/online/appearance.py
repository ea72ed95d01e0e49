"""Domain adaptation without labels: transform labelled training images so that they look like the stream.

A drift of the inputs is visible in colours and in correlations of neighbouring pixels, long before there are enough
labels to learn from. So labelled training images are transformed in two steps: by a colour transform, then block by
block (8 × 8 pixels). Blocks are modelled as draws from a normal distribution. The optimal transport map between the
training images' distribution and the stream's is applied only where it damps variance (blur, coarse pixels, low
contrast); missing variance is added as noise. The transformed images have seams between blocks. Whole images instead
of blocks would avoid seams, but their covariance needs more images than a drift leaves time for.

Sources: Peyré and Cuturi 2019, Computational Optimal Transport, remark 2.31 (Foundations and Trends in Machine Learning
11), for the map between normal distributions; Sun et al. 2016, Return of Frustratingly Easy Domain Adaptation (AAAI),
for aligning covariances between domains. Measured against alignment by frequency: benchmarks/FINDINGS.md, "Learner".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cifarctl.online.colour import Colour

BLOCK = 8  # side in pixels, hand-chosen; larger: captures longer correlations, but needs more images to estimate them
COLOURS = 3
MIN_VARIANCE = 1e-4  # lower bound of the training images' variance in every direction, for a stable division

#: From normalised images (B, 3, 32, 32) and a random generator to transformed images (B, 3, 32, 32).
Transform: TypeAlias = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Appearance:
    """Statistics of images: `mean` (192,) and `covariance` (192, 192) of blocks, `low` and `high` (3,) of channels."""

    mean: torch.Tensor
    covariance: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor) -> Appearance:
        """The statistics of normalised images (N, 3, 32, 32), N at least 1."""
        blocks = _blocks(images)
        low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
        return cls(blocks.mean(dim=0), torch.cov(blocks.T), low, high)


class AppearanceTransfer:
    """Transforms images of the reference's distribution into images that look like a window of the stream."""

    def __init__(self, reference: Appearance, window: Appearance, colour: Colour | None = None) -> None:
        """Compute the map; `colour` transforms the stream's colours to the reference's, None is the identity."""
        forth = (Colour.none() if colour is None else colour.inverse()).matrix.double()
        recolour = torch.kron(torch.eye(BLOCK * BLOCK, dtype=torch.float64), forth)
        there, here = window.covariance.double(), recolour @ reference.covariance.double() @ recolour.T
        values, axes = torch.linalg.eigh(here)
        values = values.clamp(min=MIN_VARIANCE)
        root, back = axes * values.sqrt() @ axes.T, axes * values.rsqrt() @ axes.T
        values, axes = torch.linalg.eigh(back @ _root(root @ there @ root) @ back)
        damped = axes * values.clamp(max=1) @ axes.T
        self._map = (damped @ recolour).T.float()
        self._noise = _root(there - damped @ here @ damped).float()
        self._from, self._to = reference.mean, window.mean
        self._low, self._high = _channels(window.low), _channels(window.high)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Transformed normalised images (B, 3, 32, 32), channels last; `generator` draws the added noise."""
        blocks = _blocks(images)
        white = torch.randn(blocks.shape, generator=generator)
        changed = (blocks - self._from) @ self._map + white @ self._noise + self._to
        return _images(changed, images.shape).clamp(self._low, self._high)


def half_and_half(one: Transform, other: Transform) -> Transform:
    """Transform the first half of a batch by `one` and the rest by `other`."""

    def look(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        middle = len(images) // 2
        return torch.cat([one(images[:middle], generator), other(images[middle:], generator)])

    return look


def _blocks(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, 32, 32) as blocks (16 N, 192) in the order rows, columns, colours."""
    count, _, rows, columns = images.shape
    parts = images.permute(0, 2, 3, 1).reshape(count, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, COLOURS)
    return parts.transpose(2, 3).reshape(-1, BLOCK * BLOCK * COLOURS)


def _images(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of `_blocks`: images of the given shape, channels last."""
    count, _, rows, columns = shape
    parts = blocks.reshape(count, rows // BLOCK, columns // BLOCK, BLOCK, BLOCK, COLOURS).transpose(2, 3)
    return parts.reshape(count, rows, columns, COLOURS).permute(0, 3, 1, 2)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """The square root of the positive part of a symmetric matrix."""
    values, axes = torch.linalg.eigh(covariance)
    root: torch.Tensor = axes * values.clamp(min=0).sqrt() @ axes.T
    return root


def _channels(values: torch.Tensor) -> torch.Tensor:
    return values[None, :, None, None]
