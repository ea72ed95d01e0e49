"""Drift operations on batches of images.

Source of the idea: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations*, ICLR 2019.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

# (pixels (B, 3, H, W) uint8, strength, one generator per image) -> the same shape, uint8
Apply: TypeAlias = Callable[[torch.Tensor, float, "list[torch.Generator]"], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """The strength of an operation: its `unit`, the allowed range `low`..`high`, and `none`, which has no effect.

    An operation without a `unit` takes no strength; a ramp then blends from no effect to the full effect.
    """

    unit: str = ""
    none: float = 0.0
    low: float = 0.0
    high: float = 1.0
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation(Strength):
    """An operation on images; `random` ones use the generators."""

    apply: Apply
    random: bool = False


def _noise(pixels: torch.Tensor, strength: float, generators: list[torch.Generator]) -> torch.Tensor:
    noise = torch.stack([torch.randn(pixels.shape[1:], generator=generator) for generator in generators])
    return _bytes(pixels + noise.to(pixels.device) * (255 * strength))


def _contrast(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _tensor(functional.adjust_contrast(pixels, strength))


def _brightness(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _tensor(functional.adjust_brightness(pixels, strength))


def _saturation(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _tensor(functional.adjust_saturation(pixels, strength))


def _hue(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _tensor(functional.adjust_hue(pixels, strength))


def _posterize(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _tensor(functional.posterize(pixels, round(strength)))


def _solarize(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    # torchvision inverts values at or above the threshold, so at 1 it would still invert white.
    return pixels if strength == 1 else _tensor(functional.solarize(pixels, 255 * strength))


def _jpeg(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from PIL import Image

    quality = round(strength)
    if quality == 100:  # defined as no effect, although JPEG would still change some values
        return pixels
    decoded = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


def _rotate(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    return _tensor(functional.rotate(pixels, strength, interpolation=InterpolationMode.BILINEAR))


def _pixelate(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    side = round(strength)
    small = functional.resize(pixels, [side, side], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return _tensor(functional.resize(small, list(pixels.shape[-2:]), interpolation=InterpolationMode.NEAREST))


def _blur(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    if strength < 0.05:  # no visible effect, and torchvision rejects 0
        return pixels
    # Three sigmas on either side, limited by the reflection padding.
    reach = min(int(3 * strength + 0.5) or 1, min(pixels.shape[-2:]) - 1)
    return _tensor(functional.gaussian_blur(pixels, [2 * reach + 1] * 2, [strength] * 2))


def _occlude(pixels: torch.Tensor, strength: float, generators: list[torch.Generator]) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    side = round(strength * min(height, width))
    corners = torch.stack([torch.rand(2, generator=generator) for generator in generators]).to(pixels.device)
    top = (corners[:, :1] * (height - side + 1)).long()
    left = (corners[:, 1:] * (width - side + 1)).long()
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device)
    inside_rows = (rows >= top) & (rows < top + side)  # (B, H)
    inside_columns = (columns >= left) & (columns < left + side)  # (B, W)
    return pixels.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0)


def _swap(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    return _blend(pixels, pixels[:, [2, 0, 1]], strength)


def _invert(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    return _blend(pixels, 255 - pixels, strength)


def _grayscale(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return _blend(pixels, _tensor(functional.rgb_to_grayscale(pixels, num_output_channels=3)), strength)


def _blend(clean: torch.Tensor, changed: torch.Tensor, share: float) -> torch.Tensor:
    return changed if share == 1 else _bytes(clean * (1 - share) + changed * share)


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _tensor(value: object) -> torch.Tensor:
    """Give a type to the result of untyped torchvision functions."""
    assert isinstance(value, torch.Tensor)
    return value


OPERATIONS: dict[str, Operation] = {
    "noise": Operation(apply=_noise, unit="standard deviation", high=1, random=True),
    "contrast": Operation(apply=_contrast, unit="factor", none=1, high=10),
    "brightness": Operation(apply=_brightness, unit="factor", none=1, high=10),
    "saturation": Operation(apply=_saturation, unit="factor", none=1, high=10),
    "hue": Operation(apply=_hue, unit="fraction of the colour circle", low=-0.5, high=0.5),
    "posterize": Operation(apply=_posterize, unit="bits per channel", none=8, low=1, high=8, whole=True),
    "solarize": Operation(apply=_solarize, unit="threshold on the 0–1 scale", none=1, high=1),
    "jpeg": Operation(apply=_jpeg, unit="quality", none=100, low=1, high=100, whole=True),
    "rotate": Operation(apply=_rotate, unit="degrees", low=-360, high=360),
    "pixelate": Operation(apply=_pixelate, unit="side in pixels", none=32, low=1, high=32, whole=True),
    "blur": Operation(apply=_blur, unit="sigma in pixels", high=10),
    "occlude": Operation(apply=_occlude, unit="fraction of the side", high=1, random=True),
    "swap": Operation(apply=_swap),
    "invert": Operation(apply=_invert),
    "grayscale": Operation(apply=_grayscale),
}

#: Operations that take a list of classes, as in ``classes:0+1+2``: the classes that appear, or that are exchanged.
CLASSED = ("classes", "relabel")
#: Operations on labels and on class frequencies; only those with a fraction can ramp.
LABEL_OPERATIONS: dict[str, Strength] = {
    "prior": Strength(unit="seed", high=1e9, whole=True),
    "wrong": Strength(unit="fraction"),
    "late": Strength(unit="images", high=1e6, whole=True),
    "labelled": Strength(unit="fraction", none=1),
}
