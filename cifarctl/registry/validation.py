"""Validation images in the registry, so that a version can be checked where the data set is not at hand.

validation/<sha256 of the split>.safetensors    pixels (N, 3, 32, 32) uint8, labels (N,) int64
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from cifarctl.errors import RegistryError
from cifarctl.registry.files import os_errors, replace_file
from cifarctl.registry.layout import VALIDATION
from cifarctl.registry.store import Registry

#: Maximum number of images that are kept, evenly chosen where there are more.
LIMIT = 5000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def path(registry: Registry, split: str) -> Path:
    """Where the validation images of the split with that sha256 are."""
    return registry.dir / VALIDATION / f"{split}.safetensors"


def save(registry: Registry, split: str, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Keep the validation images of a split, unless they are there; N > 0 of them.

    Raises:
        RegistryError: they cannot be written.
    """
    if load(registry, split) is not None:
        return
    index = torch.linspace(0, len(labels) - 1, min(LIMIT, len(labels))).round().long()
    images = {"pixels": pixels[index].contiguous(), "labels": labels[index].contiguous()}
    replace_file(path(registry, split), safetensors.save(images))


def load(registry: Registry, split: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Pixels (N, 3, 32, 32) uint8 and labels (N,) int64 of a split; None where the file is absent or damaged.

    Raises:
        RegistryError: they are there and cannot be read.
    """
    if _SHA256.fullmatch(split) is None:  # a manifest from elsewhere must not name a file outside
        return None
    file = path(registry, split)
    try:
        with os_errors(file):
            images = safetensors.load(file.read_bytes())
        pixels, labels = images["pixels"], images["labels"]
    except RegistryError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (SafetensorError, ValueError, KeyError):  # damaged: `save` writes it anew where the data set is at hand
        return None
    right = pixels.dtype == torch.uint8 and labels.dtype == torch.int64 and pixels.shape == (len(labels), 3, 32, 32)
    return (pixels, labels) if right and len(labels) else None
