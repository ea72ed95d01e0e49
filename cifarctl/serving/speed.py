"""The speed of backends on this machine, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar

import torch

from cifarctl.models.backends import Backend

Key = TypeVar("Key")


def images_per_second(backends: Mapping[Key, Backend], images: int, seconds: float) -> dict[Key, float]:
    """The speed of each backend on batches of `images`, by its fastest pass; all together take about `seconds`.

    The backends take turns, so that other work on the machine slows all of them down rather than one.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for backend in backends.values():
        backend(pixels)  # the first pass allocates and chooses kernels
    fastest = dict.fromkeys(backends, float("inf"))
    deadline = time.perf_counter() + seconds
    while True:
        for key, backend in backends.items():
            start = time.perf_counter()
            backend(pixels)
            fastest[key] = min(fastest[key], time.perf_counter() - start)
        if time.perf_counter() >= deadline:
            return {key: images / max(duration, 1e-9) for key, duration in fastest.items()}
