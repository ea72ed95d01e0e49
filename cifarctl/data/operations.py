"""The operations of drift on images, a batch at a time.

Image corruptions as a test bed for models: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations*, ICLR 2019.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

# (pixels (B, 3, H, W) uint8, strength, one generator an image) -> the same shape, uint8
Apply: TypeAlias = Callable[[torch.Tensor, float, "list[torch.Generator]"], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """The number after an operation's name: `none` changes nothing, `low`..`high` is allowed.

    An operation without a `unit` takes no number; a ramp then blends from the clean to the fully changed image.
    """

    unit: str = ""
    none: float = 0.0
    low: float = 0.0
    high: float = 1.0
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation(Strength):
    """A change of images."""

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

    # torchvision inverts what reaches the threshold, white at 1 too.
    return pixels if strength == 1 else _tensor(functional.solarize(pixels, 255 * strength))


def _jpeg(pixels: torch.Tensor, strength: float, _: list[torch.Generator]) -> torch.Tensor:
    from PIL import Image

    quality = round(strength)
    if quality == 100:  # nearly nothing
        return pixels
    there_and_back = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        there_and_back.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(there_and_back)).permute(0, 3, 1, 2)


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

    if strength < 0.05:  # narrower than a pixel can show, and torchvision refuses zero
        return pixels
    # Three sigmas either way, as far as reflection at the border allows.
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
    """The result of untyped torchvision, typed."""
    assert isinstance(value, torch.Tensor)
    return value


OPERATIONS: dict[str, Operation] = {
    "noise": Operation(apply=_noise, unit="standard deviation", high=1, random=True),
    "contrast": Operation(apply=_contrast, unit="factor", none=1, high=10),
    "brightness": Operation(apply=_brightness, unit="factor", none=1, high=10),
    "saturation": Operation(apply=_saturation, unit="factor", none=1, high=10),
    "hue": Operation(apply=_hue, unit="share of the colour circle", low=-0.5, high=0.5),
    "posterize": Operation(apply=_posterize, unit="bits a channel", none=8, low=1, high=8, whole=True),
    "solarize": Operation(apply=_solarize, unit="threshold on the 0–1 scale", none=1, high=1),
    "jpeg": Operation(apply=_jpeg, unit="quality", none=100, low=1, high=100, whole=True),
    "rotate": Operation(apply=_rotate, unit="degrees", low=-360, high=360),
    "pixelate": Operation(apply=_pixelate, unit="side in pixels", none=32, low=1, high=32, whole=True),
    "blur": Operation(apply=_blur, unit="sigma in pixels", high=10),
    "occlude": Operation(apply=_occlude, unit="share of the side", high=1, random=True),
    "swap": Operation(apply=_swap),
    "invert": Operation(apply=_invert),
    "grayscale": Operation(apply=_grayscale),
}

#: Classes that are counted up after the name, as in ``classes:0+1+2``: those that appear, those that are exchanged.
CLASSED = ("classes", "relabel")
#: Operations that change labels, or the choice of images; of these only a share can ramp.
LABEL_OPERATIONS: dict[str, Strength] = {
    "prior": Strength(unit="seed", high=1e9, whole=True),
    "wrong": Strength(unit="share"),
    "late": Strength(unit="images", high=1e6, whole=True),
    "labelled": Strength(unit="share", none=1),
}
