"""Decisions and computations of a training run before its first step."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from cifarctl import models
from cifarctl.data import Images
from cifarctl.errors import SettingsError
from cifarctl.models.architectures.airbench import Airbench
from cifarctl.models.averaged import Averaged
from cifarctl.models.optimiser import Optimiser
from cifarctl.models.predictor import PRECISIONS, Precision, choose_precision
from cifarctl.models.preprocess import normalise
from cifarctl.models.recipe import Recipe
from cifarctl.registry import Normalisation
from cifarctl.settings import TrainSettings
from cifarctl.training.distribution import Team
from cifarctl.training.progress import Progress
from cifarctl.training.run import TrainingRun
from cifarctl.training.schedule import Schedule

#: Training images from which the first layer's whitening is computed, as in airbench.
WHITENING_IMAGES = 5000
#: Images that are copied or counted at once: 30 MB.
BLOCK = 10_000
#: Most training images that are copied to an accelerator as a whole: 3 GB of its memory.
MAX_IMAGES_ON_DEVICE = 1_000_000


def prepare(settings: TrainSettings, images: Images, index: torch.Tensor, classes: int, team: Team) -> TrainingRun:
    """A run at its first step over the images at `index` (N,), as the settings or else the model's recipe say.

    Raises:
        SettingsError: a batch has fewer images than the team has processes.
    """
    recipe = _effective_recipe(settings)
    arguments: dict[str, Any] = {"classes": classes, **recipe.arguments}
    if recipe.tta != "none":
        arguments["tta"] = recipe.tta
    normalisation = _normalisation_of(images, index)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = models.build(settings.model, arguments)
    _whiten(model, images, index, normalisation)
    model = model.to(team.device).to(memory_format=torch.channels_last)
    network = model.network if isinstance(model, Averaged) else model
    if team.accelerated and len(index) <= MAX_IMAGES_ON_DEVICE:  # else each batch is copied there when it is due
        images = _moved(images, index, team.device)
        index = torch.arange(len(index))
    batch_size = min(recipe.batch_size, len(index))
    if batch_size < team.size:
        raise SettingsError(f"train.batch_size = {batch_size}: less than one image for each of {team.size} processes")
    seeded = torch.Generator().manual_seed(settings.seed)
    return TrainingRun(
        settings=settings,
        recipe=recipe,
        schedule=Schedule(
            epochs=settings.epochs,
            targeted=settings.target_accuracy is not None,
            first_cycle=recipe.cycle,
            side=images.pixels.shape[-1],
            early_side=recipe.early_side,
        ),
        images=images,
        index=index,
        team=team,
        model=model,
        arguments=arguments,
        normalisation=normalisation,
        optimiser=Optimiser(model, recipe, batch_size),
        mirrored=torch.rand(len(index), generator=seeded) < 0.5,
        batch_size=batch_size,
        batches=len(index) // batch_size,
        progress=Progress(_team_precision(settings, network, batch_size // team.size, team)),
    )


def _effective_recipe(settings: TrainSettings) -> Recipe:
    """The recipe of the settings' model, with the values that the settings override."""
    recipe = models.recipe_of(settings.model)
    names = [field.name for field in fields(recipe) if hasattr(settings, field.name)]
    return replace(recipe, **{name: value for name in names if (value := getattr(settings, name)) is not None})


def _normalisation_of(images: Images, index: torch.Tensor) -> Normalisation:
    """Mean and deviation of each channel, on the 0–1 scale, over all pixels of the images at `index` (N,)."""
    # A histogram of the 256 levels is exact and needs no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros((3, 256), dtype=torch.int64)
    for part in torch.split(index, BLOCK):
        pixels = images.pixels[part]
        for channel in range(3):
            counts[channel] += torch.bincount(pixels[:, channel].flatten(), minlength=256)
    mean, std = [], []
    for count in counts:
        share = count.double() / count.sum()
        centre = (share * levels).sum()
        mean.append(centre.item())
        std.append(max((share * (levels - centre) ** 2).sum().sqrt().item(), 1e-3))
    return Normalisation(mean=tuple(mean), std=tuple(std))


def _whiten(model: nn.Module, images: Images, index: torch.Tensor, normalisation: Normalisation) -> None:
    """Set the first layers that follow from training images, those at `index` (N,), in `model`."""
    for part in model.modules():
        if isinstance(part, Airbench):
            some = images.pixels[index[:: -(-len(index) // WHITENING_IMAGES)]]
            part.whiten_by(normalise(some, normalisation.mean, normalisation.std))


def _moved(images: Images, index: torch.Tensor, device: torch.device) -> Images:
    """The images at `index` (N,), on `device`; host memory holds one block of copies at a time."""
    pixels = torch.cat([images.pixels[part].to(device) for part in torch.split(index, BLOCK)])
    return Images(pixels, images.labels[index].to(device))


def _team_precision(settings: TrainSettings, model: nn.Module, batch_size: int, team: Team) -> Precision:
    """The precision that the first process chooses, so that all have the same; each might measure otherwise."""
    chosen = team.told(
        lambda: PRECISIONS.index(choose_precision(settings.precision, model, team.device, batch_size, train=True))
    )
    return PRECISIONS[int(chosen)]
