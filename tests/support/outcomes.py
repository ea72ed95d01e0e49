"""Streams of outcomes, and what monitors find in them."""

from __future__ import annotations

import numpy as np

from cifarctl.online.drift import ClassMonitor, Detection, ErrorMonitor

CLASSES = 10


def outcomes(seed: int, *parts: tuple[int, float]) -> list[bool]:
    """Wrong or right, for so many images at such an error each."""
    generator = np.random.default_rng(seed)
    return [bool(wrong) for images, error in parts for wrong in generator.random(images) < error]


def detections(monitor: ErrorMonitor, wrongs: list[bool]) -> list[Detection]:
    return [found for wrong in wrongs if (found := monitor.update(wrong)) is not None]


def by_class(monitor: ClassMonitor, spoilt: int | None, count: int, start: int = 0) -> list[tuple[int, int, int]]:
    """Images of all classes in turns, a tenth of them wrong, of the class `spoilt` nearly all: where told, and what."""
    rng, told = np.random.default_rng(start), []
    for number in range(start, start + count):
        label = number % CLASSES
        wrong = bool(rng.random() < (0.9 if label == spoilt else 0.1))
        if (found := monitor.update(label, number, wrong)) is not None:
            told.append((number, label, found[0]))
    return told
