"""Drift scenarios: how the images of a stream change over its course.

A scenario is text: ``operation[:strength]@start-end``, comma-separated, positions counted in images, ranges
half-open; ``~`` before the start ramps the strength from none at the first image to full at the last.
Outside every range the stream is clean; where ranges overlap, their operations apply in the order written.

    noise:0.12@1500-3500,swap@3500-5500,contrast:0.3@~6500-8500

Image corruptions as a test bed for models: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations*, ICLR 2019.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cifarctl.errors import SettingsError

# (pixels (B, 3, H, W) uint8, strength, one generator an image) -> the same shape, uint8
Apply: TypeAlias = Callable[[torch.Tensor, float, "list[torch.Generator]"], torch.Tensor]

PRESETS: dict[str, str] = {
    "clean": "",
    "covariate": "noise:0.12@1500-3500,swap@3500-5500,invert@6500-8500",
    "sudden": "swap@1500-1000000000",
    "gradual": "contrast:0.3@~1500-6500,contrast:0.3@6500-1000000000",
    "recurring": "swap@1500-3000,swap@4500-6000,swap@7500-9000",
    "weather": "brightness:0.4@1500-3500,blur:1.2@3500-5500,saturation:0@~5500-7500,noise:0.1@7000-9000",
}

LABEL_OPERATIONS = ("classes", "prior", "relabel", "wrong", "late", "labelled")

_PIECE = re.compile(r"(?P<name>[a-z]+)(?::(?P<strength>[^@]*))?@(?P<ramp>~?)(?P<start>\d{1,18})-(?P<end>\d{1,18})")


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
    """What untyped torchvision returns, typed."""
    assert isinstance(value, torch.Tensor)
    return value


@dataclass(frozen=True)
class Operation:
    """A change of images: `none` is the strength that leaves them as they are, `low`..`high` what is allowed.

    Without a `unit` it takes no strength in the text; a ramp then blends from the clean image to the changed.
    """

    apply: Apply
    unit: str = ""
    none: float = 0.0
    low: float = 0.0
    high: float = 1.0
    random: bool = False
    whole: bool = False


OPERATIONS: dict[str, Operation] = {
    "noise": Operation(_noise, "standard deviation", high=1, random=True),
    "contrast": Operation(_contrast, "factor", none=1, high=10),
    "brightness": Operation(_brightness, "factor", none=1, high=10),
    "saturation": Operation(_saturation, "factor", none=1, high=10),
    "rotate": Operation(_rotate, "degrees", low=-360, high=360),
    "pixelate": Operation(_pixelate, "side in pixels", none=32, low=1, high=32, whole=True),
    "blur": Operation(_blur, "sigma in pixels", high=10),
    "occlude": Operation(_occlude, "share of the side", high=1, random=True),
    "swap": Operation(_swap),
    "invert": Operation(_invert),
    "grayscale": Operation(_grayscale),
}


@dataclass(frozen=True)
class Range:
    """One piece of a scenario: an operation over the half-open range of positions `start`..`end`."""

    name: str
    strength: float
    start: int
    end: int
    ramp: bool
    label: str

    def strength_at(self, position: int) -> float:
        """The strength at a position inside the range."""
        if not self.ramp:
            return self.strength
        none = OPERATIONS[self.name].none
        return none + (self.strength - none) * (position - self.start) / max(1, self.end - 1 - self.start)


@dataclass(frozen=True)
class Scenario:
    """A parsed scenario; `text` is what it was parsed from, with presets spelt out."""

    text: str
    ranges: tuple[Range, ...]

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Parse a preset's name or the grammar of this module; empty text is the clean stream.

        Raises:
            SettingsError: a piece is not understood; the message quotes it and says what is allowed.
        """
        text = PRESETS.get(text.strip(), text).strip()
        pieces = text.split(",") if text else []
        return cls(text, tuple(_parse(piece.strip()) for piece in pieces))

    def apply(self, pixels: torch.Tensor, start: int, seed: int) -> torch.Tensor:
        """The images at stream positions `start`..`start + B - 1` as the scenario shows them.

        Randomness is drawn for each position by itself, so the result does not depend on how the stream is
        cut into batches.

        Args:
            pixels: (B, 3, 32, 32) uint8, clean; not changed.
            start: position of the first image in the stream.
            seed: seed of the random operations.

        Returns:
            (B, 3, 32, 32) uint8; `pixels` itself where nothing is active.
        """
        drifted = pixels
        for number, piece in enumerate(self.ranges):
            first, last = max(start, piece.start), min(start + len(pixels), piece.end)
            if first >= last:
                continue
            if drifted is pixels:
                drifted = pixels.clone()
            operation = OPERATIONS[piece.name]
            root = _root(seed, number)
            # Along a ramp every image has a strength of its own, and torchvision takes one for a batch.
            step = 1 if piece.ramp else last - first
            for position in range(first, last, step):
                where = slice(position - start, position - start + step)
                generators = _generators(root, position, step) if operation.random else []
                strength = piece.strength_at(position)
                drifted[where] = operation.apply(drifted[where], strength, generators)
        return drifted

    def active(self, position: int) -> str:
        """What is active at a position, for display: ``swap``, ``noise:0.12 + invert``, or ``clean``."""
        active = [piece.label for piece in self.ranges if piece.start <= position < piece.end]
        return " + ".join(active) or "clean"

    def boundaries(self) -> tuple[int, ...]:
        """Positions, ascending, at which a range begins or ends; the stream's beginning is none of them."""
        return tuple(sorted({edge for piece in self.ranges for edge in (piece.start, piece.end)} - {0}))


def _parse(piece: str) -> Range:
    name = re.split("[:@]", piece, maxsplit=1)[0]
    if name in LABEL_OPERATIONS:
        raise SettingsError(
            f"drift {piece!r}: {name} changes labels, not images, which this command does not support yet; "
            f"there are {', '.join(OPERATIONS)}"
        )
    if name not in OPERATIONS and (name != piece or "@" in piece):
        raise SettingsError(f"drift {piece!r}: no operation {name!r}; there are {', '.join(OPERATIONS)}")
    match = _PIECE.fullmatch(piece)
    if match is None:
        raise SettingsError(
            f"drift {piece!r}: expected operation[:strength]@start-end, for example noise:0.12@1500-3500, "
            f"with the operations {', '.join(OPERATIONS)}, or a preset: {', '.join(PRESETS)}"
        )
    start, end = int(match["start"]), int(match["end"])
    if start >= end:
        raise SettingsError(f"drift {piece!r}: the range {start}-{end} is empty; the end must be beyond the start")
    return Range(
        name=name,
        strength=_strength(piece, name, match["strength"]),
        start=start,
        end=end,
        ramp=bool(match["ramp"]),
        label=("~" if match["ramp"] else "") + name + (f":{match['strength']}" if match["strength"] else ""),
    )


def _strength(piece: str, name: str, text: str | None) -> float:
    operation = OPERATIONS[name]
    if not operation.unit:
        if text is not None:
            raise SettingsError(f"drift {piece!r}: {name} takes no strength; write {name}@start-end")
        return 1.0
    allowed = f"{operation.unit}, {operation.low:g} to {operation.high:g}" + (", whole" if operation.whole else "")
    if not text:
        raise SettingsError(f"drift {piece!r}: {name} needs a strength ({allowed}); write {name}:strength@start-end")
    try:
        strength = float(text)
    except ValueError:
        strength = float("nan")
    # Written so that not-a-number fails too.
    if not operation.low <= strength <= operation.high or (operation.whole and strength % 1):
        raise SettingsError(f"drift {piece!r}: {name} cannot be {text} ({allowed})")
    return strength


def _root(seed: int, number: int) -> int:
    """Where the seeds of one range's positions begin: two noises on one image must not be the same noise."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _generators(root: int, start: int, count: int) -> list[torch.Generator]:
    # torch's Mersenne Twister takes 32 bits of its seed, so the positions are counted within those.
    return [torch.Generator().manual_seed((root + position) & 0xFFFFFFFF) for position in range(start, start + count)]
