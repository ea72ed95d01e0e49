"""From a trained model in memory to a version in the registry."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal

import torch
from torch import nn

from cifarctl import __version__
from cifarctl.data import Dataset, Split
from cifarctl.registry import Draft, Manifest, Normalisation, Registry, SplitRecord
from cifarctl.registry.loading import canary, to_bytes
from cifarctl.settings import DataSettings


def split_record(dataset: Dataset, split: Split, settings: DataSettings, seen: tuple[str, ...]) -> SplitRecord:
    """What a manifest says of the images that a model was trained on; `seen` names the parts it has read."""
    return SplitRecord(
        source=dataset.name, seed=settings.split_seed, shares=settings.split, sha256=split.sha256, seen=seen
    )


def publish(
    registry: Registry,
    model: nn.Module,
    *,
    name: str,
    arguments: dict[str, Any],
    normalisation: Normalisation,
    classes: tuple[str, ...],
    split: SplitRecord,
    settings: dict[str, Any],
    metrics: Mapping[str, float | None],
    parent: int | None,
    origin: Literal["train", "learner", "import"],
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Make `model` the registry's next version.

    Raises:
        RegistryError: the registry cannot be written.
    """
    model = model.float().cpu().eval()
    draft = Draft(
        model=name,
        arguments=arguments,
        normalisation=normalisation,
        image_shape=(3, 32, 32),
        classes=classes,
        split=split,
        settings=settings,
        metrics=dict(metrics),
        parent=parent,
        origin=origin,
        libraries={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "cifarctl": __version__,
        },
        canary=canary(model, normalisation),
    )
    return registry.publish(draft, to_bytes(model), files or {})


def publish_like(
    registry: Registry,
    model: nn.Module,
    like: Manifest,
    *,
    settings: dict[str, Any],
    metrics: Mapping[str, float | None],
    parent: int | None,
    origin: Literal["train", "learner", "import"],
    name: str | None = None,
    arguments: dict[str, Any] | None = None,
) -> Manifest:
    """Make `model`, which has the classes and images of the version `like`, the next version.

    It has its architecture as well, unless another `name` with its `arguments` is given.

    Raises:
        RegistryError: the registry cannot be written.
    """
    return publish(
        registry,
        model,
        name=name or like.model,
        arguments=like.arguments if arguments is None else arguments,
        normalisation=like.normalisation,
        classes=like.classes,
        split=like.split,
        settings=settings,
        metrics=metrics,
        parent=parent,
        origin=origin,
    )
