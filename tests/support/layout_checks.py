"""Helpers for tests of LayoutCheck."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from cifarctl.data.operations import OPERATIONS
from cifarctl.stream.layout_check import LayoutCheck
from cifarctl.stream.records import Decoded, Pixels, Record

HALF = (0.5, 0.5, 0.5)


def said_of(pixels: Pixels, *, mean: tuple[float, float, float] = HALF, batch: int = 24) -> Iterator[str]:
    """Notices about images (N, 3, 32, 32) uint8 sent as JSON."""
    look = LayoutCheck(mean).look
    for at in range(0, len(pixels), batch):
        part = pixels[at : at + batch]
        records = [Record("t", 0, 0, 0, None, b'{"image": ' + b"." * 4000, ())] * len(part)
        yield from look(Decoded(part, np.zeros(len(part)), [""] * len(part), records))


def never_suspected(pixels: np.ndarray) -> None:
    """Whatever drift does to them."""
    for name, operation in OPERATIONS.items():
        strengths = [operation.low, (operation.low + operation.high) / 2, operation.high] if operation.unit else [1.0]
        if name == "pixelate":
            strengths = [2, 8, 16]
        for strength in strengths:
            generators = [torch.Generator().manual_seed(number) for number in range(len(pixels))]
            strength = round(strength) if operation.whole else strength
            changed = operation.apply(torch.from_numpy(pixels), strength, generators).numpy()
            assert not list(said_of(changed)), (name, strength)
