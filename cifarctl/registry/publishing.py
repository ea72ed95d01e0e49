"""From a trained model in memory to a version in the registry."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

import torch
from torch import nn

from cifarctl import __version__
from cifarctl.data import Dataset, Split
from cifarctl.registry import Description, Draft, Manifest, Registry, SplitRecord
from cifarctl.registry.loading import canary, to_bytes
from cifarctl.settings import DataSettings


def split_record(dataset: Dataset, split: Split, settings: DataSettings, seen: tuple[str, ...]) -> SplitRecord:
    """The manifest's record of a model's training images; `seen` names the parts that training has read."""
    return SplitRecord(
        source=dataset.name, seed=settings.split_seed, shares=settings.split, sha256=split.sha256, seen=seen
    )


def publish(
    registry: Registry, model: nn.Module, description: Description, files: Mapping[str, bytes] | None = None
) -> Manifest:
    """Make `model` the registry's next version, with `files` as its plots; it is left in eval mode on the CPU.

    Raises:
        IntegrityError: the model predicts values that are not finite.
        RegistryError: the registry cannot be written.
    """
    model = model.float().cpu().eval()
    draft = Draft(
        **dict(description),
        libraries={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "cifarctl": __version__,
        },
        canary=canary(model, description.normalisation),
    )
    return registry.publish(draft, to_bytes(model), files or {})
