"""Streams whose inputs move."""

from __future__ import annotations

import itertools

import torch

from cifarctl.data import synthetic
from cifarctl.online.inputs import Movement, features

PICTURES = synthetic.draw(1400, seed=5).pixels


def moved_at(monitor: Movement, pixels: torch.Tensor, sizes: list[int]) -> list[tuple[int, int]]:
    """Where in the stream movements are told, and where they are said to have begun, images coming in such parts."""
    told, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(pixels):
            return told
        end = min(start + size, len(pixels))
        since = monitor.update(features(pixels[start:end]))
        start = end
        if since is not None:
            told.append((start, start - since))
    return told


def moving() -> torch.Tensor:
    images = PICTURES[:700]
    return torch.cat([images[:300], 255 - images[300:500], images[500:700]])
