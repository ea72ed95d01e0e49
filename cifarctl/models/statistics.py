"""Batch normalisation by the statistics of the images that come now, without labels.

Schneider et al. 2020, Improving Robustness against Common Corruptions by Covariate Shift Adaptation (NeurIPS): the
statistics of training count as those of a few more images.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as _Norm

from cifarctl.models.averaged import Averaged

SOURCE = 16  # images that the statistics of training count as
BATCH = 250


def adapted(model: nn.Module, images: torch.Tensor) -> nn.Module | None:
    """A copy of `model` whose statistics are those of normalised images (N, 3, 32, 32); None where it keeps none.

    Of more than 250 images the newest count.
    """
    if not _norms(model):
        return None
    new = copy.deepcopy(model)
    norms = _norms(new)
    before = [(_running(norm)[0].clone(), _running(norm)[1].clone()) for norm in norms]
    was = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    for module in new.modules():
        if isinstance(module, Averaged):
            module.training = True  # one look at each image, not the last of several
    images = images[-BATCH:]
    with torch.no_grad():
        new(images)
    source = SOURCE / (SOURCE + len(images))
    for norm, (mean, variance), momentum in zip(norms, before, was, strict=True):
        running_mean, running_variance = _running(norm)
        apart = running_mean - mean
        running_mean.lerp_(mean, source)
        running_variance.lerp_(variance, source).add_(source * (1 - source) * apart.square())
        norm.momentum = momentum
    return new.eval()


def _norms(model: nn.Module) -> list[_Norm]:
    return [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]


def _running(norm: _Norm) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None  # since it tracks them
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
