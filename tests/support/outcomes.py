"""Streams of outcomes, and what monitors find in them."""

from __future__ import annotations

import numpy as np

from cifarctl.online.drift import Detection, ErrorMonitor


def outcomes(seed: int, *parts: tuple[int, float]) -> list[bool]:
    """Wrong or right, for so many images at such an error each."""
    generator = np.random.default_rng(seed)
    return [bool(wrong) for images, error in parts for wrong in generator.random(images) < error]


def detections(monitor: ErrorMonitor, wrongs: list[bool]) -> list[Detection]:
    return [found for wrong in wrongs if (found := monitor.update(wrong)) is not None]
