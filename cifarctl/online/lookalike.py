"""Training images that look as the stream does now: what labels cannot say yet, statistics can.

A drift of the inputs shows in the colours of the stream's images, and in how neighbouring pixels go together, long
before there are labels enough to learn from. So the images that the first model was trained on, whose labels are known,
are made to look alike: first by a change of colours, then block by block. A block is taken for a draw from a normal
distribution, and goes the shortest way from that of the training images to that of the stream, as far as it is damped
on the way (blur, coarse pixels, low contrast); what is missing of the stream's variance then is added as noise. Seams
show between blocks where the stream has none: whole images would take more of them than a drift leaves time for. The
map between normal distributions: Peyré and Cuturi 2019, Computational Optimal Transport, remark 2.31 (Foundations and
Trends in Machine Learning 11); covariances aligned between domains: Sun et al. 2016, Return of Frustratingly Easy
Domain Adaptation (AAAI).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cifarctl.online.colour import Colour

BLOCK = 8  # pixels a side: large enough for how near pixels go together, small enough that few images tell it
COLOURS = 3
MIN_VARIANCE = 1e-4  # variance that every direction of the training images has at least, so that it can be divided by

#: (normalised images (B, 3, 32, 32), chance) -> the same as they would arrive now
Look: TypeAlias = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Appearance:
    """What images look like: `mean` (192,) and `covariance` (192, 192) of blocks, `low` and `high` (3,) of colours."""

    mean: torch.Tensor
    covariance: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor) -> Appearance:
        """Of normalised images (N, 3, 32, 32), N at least 1."""
        blocks = _blocks(images)
        low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
        return cls(blocks.mean(dim=0), torch.cov(blocks.T), low, high)


class Lookalike:
    """Makes normalised images that look like a reference look like a window of the stream."""

    def __init__(self, reference: Appearance, window: Appearance, colour: Colour | None = None) -> None:
        """`colour` takes the stream's colours back to the reference's."""
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
        """Normalised images (B, 3, 32, 32) as they would arrive now, channels last."""
        blocks = _blocks(images)
        white = torch.randn(blocks.shape, generator=generator)
        changed = (blocks - self._from) @ self._map + white @ self._noise + self._to
        return _images(changed, images.shape).clamp(self._low, self._high)


def halves(one: Look, other: Look) -> Look:
    """The first half of a batch as the one makes it, the rest as the other does."""

    def look(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        middle = len(images) // 2
        return torch.cat([one(images[:middle], generator), other(images[middle:], generator)])

    return look


def _blocks(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, 32, 32) as blocks (16 N, 192): rows, columns, colours."""
    count, _, rows, columns = images.shape
    parts = images.permute(0, 2, 3, 1).reshape(count, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, COLOURS)
    return parts.transpose(2, 3).reshape(-1, BLOCK * BLOCK * COLOURS)


def _images(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The way back, to images of that shape; channels last."""
    count, _, rows, columns = shape
    parts = blocks.reshape(count, rows // BLOCK, columns // BLOCK, BLOCK, BLOCK, COLOURS).transpose(2, 3)
    return parts.reshape(count, rows, columns, COLOURS).permute(0, 3, 1, 2)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """The square root of a symmetric matrix, of what is positive in it."""
    values, axes = torch.linalg.eigh(covariance)
    root: torch.Tensor = axes * values.clamp(min=0).sqrt() @ axes.T
    return root


def _channels(values: torch.Tensor) -> torch.Tensor:
    return values[None, :, None, None]
