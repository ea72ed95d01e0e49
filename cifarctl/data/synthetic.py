"""Ten procedurally drawn classes, for use without CIFAR-10.

Each class is a shape or texture with random position, size, angle and colours, behind clutter and noise. Foreground
hues are correlated with the class, as blue is with aeroplanes, so that a drift of colours costs accuracy as it does on
photographs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cifarctl.data.types import Images

SIDE = 32
HUE_SPREAD = 0.08  # standard deviation of a class's hue, in turns; more: colours reveal less of the class
NOISE = 0.04  # standard deviation of pixel noise, on the 0–1 scale; more: a harder task

# A shape takes coordinates u, v (n, 32, 32) in its own frame, where it spans about -1..1, and returns the signed
# distance to its edge in the same unit, positive inside.
Shape = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _disc(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return 0.9 - torch.hypot(u, v)


def _square(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return 0.8 - torch.maximum(u.abs(), v.abs())


def _triangle(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return 0.5 - torch.maximum(v, 0.866 * u.abs() - 0.5 * v)


def _cross(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    a, b = u.abs(), v.abs()
    return torch.minimum(1.0 - torch.maximum(a, b), 0.3 - torch.minimum(a, b))


def _ring(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return 0.25 - (torch.hypot(u, v) - 0.7).abs()


def _stripes(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    del u
    return torch.sin(5 * v) / 5


def _checks(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.sin(4 * u) * torch.sin(4 * v) / 4


def _dots(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (torch.cos(5 * u) * torch.cos(5 * v) - 0.4) / 5


# Name, shape, angle in degrees, whether it fills the image. The stripes differ only by their angle.
_DRAWINGS: tuple[tuple[str, Shape, float, bool], ...] = (
    ("disc", _disc, 0, False),
    ("square", _square, 0, False),
    ("triangle", _triangle, 0, False),
    ("cross", _cross, 0, False),
    ("ring", _ring, 0, False),
    ("horizontal stripes", _stripes, 0, True),
    ("vertical stripes", _stripes, 90, True),
    ("diagonal stripes", _stripes, 45, True),
    ("checkerboard", _checks, 0, True),
    ("dots", _dots, 0, True),
)

CLASSES: tuple[str, ...] = tuple(name for name, *_ in _DRAWINGS)


def draw(images: int, seed: int) -> Images:
    """Draw `images` images with equal class counts (to within one) in random order.

    Returns:
        Pixels (images, 3, 32, 32) uint8 and labels (images,) int64; deterministic.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(images, generator=generator) % len(CLASSES)
    pixels = torch.empty((images, 3, SIDE, SIDE), dtype=torch.uint8)
    for label, (_, shape, angle, fills) in enumerate(_DRAWINGS):
        chosen = (labels == label).nonzero()[:, 0]
        pixels[chosen] = _pictures(len(chosen), label, shape, angle, fills, generator)
    return Images(pixels, labels)


def _pictures(
    count: int, label: int, shape: Shape, angle: float, fills: bool, generator: torch.Generator
) -> torch.Tensor:
    """`count` images of one class, (count, 3, 32, 32) uint8."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((count, 1, 1), generator=generator)

    axis = torch.linspace(-1, 1, SIDE)
    y, x = axis.view(1, SIDE, 1), axis.view(1, 1, SIDE)
    mask = _inside(shape, x, y, uniform, angle, fills)
    # Clutter: a bar at a random angle and in a random colour hides part of the image.
    turn = uniform(0, torch.pi)
    across = x * torch.cos(turn) + y * torch.sin(turn) - uniform(-0.8, 0.8)
    bar = ((uniform(0.0, 0.12) - across.abs()) * SIDE / 2 + 0.5).clamp(0, 1)

    hue = label / len(CLASSES) + HUE_SPREAD * torch.randn((count, 1, 1), generator=generator)
    front = _colour(hue, uniform(0.3, 0.9), uniform(0.5, 1.0))
    back = _colour(uniform(0, 1), uniform(0.1, 0.7), uniform(0.1, 0.6))
    clutter = _colour(uniform(0, 1), uniform(0.1, 0.9), uniform(0.1, 1.0))
    shade = 1 + uniform(-0.3, 0.3) * x + uniform(-0.3, 0.3) * y  # light falls from one side

    picture = torch.lerp(back, front, mask[:, None]) * shade[:, None]
    picture = torch.lerp(picture, clutter, bar[:, None])
    noise = torch.randn(picture.shape, generator=generator)
    return picture.add_(noise, alpha=NOISE).mul_(255).clamp_(0, 255).to(torch.uint8)


def _inside(
    shape: Shape,
    x: torch.Tensor,
    y: torch.Tensor,
    uniform: Callable[[float, float], torch.Tensor],
    angle: float,
    fills: bool,
) -> torch.Tensor:
    """The fraction of each pixel that the shape covers, (n, 32, 32); edges are one pixel wide."""
    reach = 1.0 if fills else 0.4
    turn = torch.deg2rad(angle + uniform(-18, 18))
    size = uniform(0.4, 0.9) if fills else uniform(0.45, 0.8)
    left, top = x - uniform(-reach, reach), y - uniform(-reach, reach)
    u = (left * torch.cos(turn) + top * torch.sin(turn)) / size
    v = (top * torch.cos(turn) - left * torch.sin(turn)) / size
    return (shape(u, v) * size * (SIDE / 2) + 0.5).clamp(0, 1)


def _colour(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Convert HSV (n, 1, 1), hue in turns, to RGB (n, 3, 1, 1)."""
    channel = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (channel + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))
