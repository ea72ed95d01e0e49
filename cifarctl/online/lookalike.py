"""Training images that look as the stream does now: what labels cannot say yet, statistics can.

A drift of the inputs shows in the colours and in the power spectrum of the stream's images long before there are labels
enough to learn from. So the images that the first model was trained on, whose labels are known, are made to look alike:
first by a change of colours, then frequency by frequency, damped where the stream has less power than they (blur, low
contrast), with noise of the power that is missing where it has more. Matching amplitude spectra between domains: Yang
and Soatto 2020, FDA: Fourier Domain Adaptation for Semantic Segmentation (CVPR).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

from cifarctl.online.colour import Colour

NEARLY = 0.1  # relative difference of power that is taken for chance
LEAST = 1e-6

#: (normalised images (B, 3, 32, 32), chance) -> the same as they would arrive now
Look: TypeAlias = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


class Lookalike:
    """Makes normalised reference images look like those of a window of the stream."""

    def __init__(self, reference: torch.Tensor, window: torch.Tensor, colour: Colour | None = None) -> None:
        """Both (N, 3, 32, 32) float32, normalised; `colour` takes the stream's colours back to the reference's."""
        self._forth = Colour.none() if colour is None else colour.inverse()
        before = self._forth(reference)
        self._before, self._mean = _means(before), _means(window)
        there, here = _smooth(_power(window)), _smooth(_power(before)).clamp(min=LEAST)
        ratio = there / here
        self._gain = torch.where(ratio < 1 - NEARLY, ratio.sqrt(), 1.0)
        self._noise = torch.where(ratio > 1 + NEARLY, (there - here).clamp(min=0).sqrt(), 0.0)
        self._low, self._high = window.amin(dim=(0, 2, 3)), window.amax(dim=(0, 2, 3))

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Normalised images (B, 3, 32, 32) as they would arrive now, channels last."""
        size = images.shape[-2:]
        centred = self._forth(images) - _channels(self._before)
        white = torch.randn(images.shape, generator=generator)
        # A spectrum of white noise has the power of its pixels' number at every frequency.
        noise = torch.fft.rfft2(white) / (size[0] * size[1]) ** 0.5 * self._noise
        changed = torch.fft.irfft2(torch.fft.rfft2(centred) * self._gain + noise, s=size) + _channels(self._mean)
        changed = torch.clamp(changed, _channels(self._low), _channels(self._high))
        return changed.contiguous(memory_format=torch.channels_last)


def halves(one: Look, other: Look) -> Look:
    """The first half of a batch as the one makes it, the rest as the other does."""

    def look(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        middle = len(images) // 2
        return torch.cat([one(images[:middle], generator), other(images[middle:], generator)])

    return look


def _means(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(0, 2, 3))


def _channels(values: torch.Tensor) -> torch.Tensor:
    return values[None, :, None, None]


def _power(images: torch.Tensor) -> torch.Tensor:
    """Mean power of each channel at each frequency, (3, 32, 17)."""
    power: torch.Tensor = torch.fft.rfft2(images - _channels(_means(images))).abs().square().mean(dim=0)
    return power


def _smooth(power: torch.Tensor) -> torch.Tensor:
    """The mean of neighbouring frequencies: fewer images tell as much."""
    wrapped = functional.pad(power[None], (0, 0, 1, 1), mode="circular")
    return functional.avg_pool2d(functional.pad(wrapped, (1, 1, 0, 0), mode="replicate"), 3, stride=1)[0]
