"""Adapt batch-normalisation statistics to the current images, without labels.

The training statistics count as a prior worth `SOURCE` images. Source: Schneider et al. 2020, Improving Robustness
against Common Corruptions by Covariate Shift Adaptation (NeurIPS).
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as _Norm

from cifarctl.models.averaged import Averaged

SOURCE = 16  # weight of the training statistics, in images (N in the paper); more: less noise, slower adaptation
BATCH = 250  # maximum images; more: less noise, slower


def adapted(model: nn.Module, images: torch.Tensor) -> nn.Module | None:
    """A copy of `model` with statistics adapted to normalised images (N, 3, 32, 32), newest last.

    At most the newest 250 images are used. Returns None if the model has no batch normalisation.
    """
    if not _norms(model):
        return None
    new = copy.deepcopy(model)
    norms = _norms(new)
    before = [(_running(norm)[0].clone(), _running(norm)[1].clone()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    for module in new.modules():
        if isinstance(module, Averaged):
            module.training = True  # switches test-time augmentation off: one forward pass per image
    images = images[-BATCH:]
    with torch.no_grad():
        new(images)
    source = SOURCE / (SOURCE + len(images))
    for norm, (mean, variance), momentum in zip(norms, before, momenta, strict=True):
        running_mean, running_variance = _running(norm)
        apart = running_mean - mean
        running_mean.lerp_(mean, source)
        running_variance.lerp_(variance, source).add_(source * (1 - source) * apart.square())
        norm.momentum = momentum
    return new.eval()


def _norms(model: nn.Module) -> list[_Norm]:
    return [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]


def _running(norm: _Norm) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None  # as it tracks running statistics
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
