"""Optimisers and learning-rate schedules of offline training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cifarctl.models.recipe import Recipe

WARM_UP = 0.25  # fraction of the steps in which the one-cycle learning rate rises; hand-chosen; longer is more stable
# The others follow airbench (Jordan 2024, arXiv 2404.00498) and its Muon variant.
MUON_RATE = 0.24  # Muon's learning rate for which the next two are tuned; they scale with it
SGD_RATE = 0.053  # learning rate per image of parameters that are not filters, ...
HEAD_RATE = 0.67  # ... and of the last layer
SGD_MOMENTUM = 0.85
MUON_MOMENTUM = 0.6
MUON_STEPS = 3  # of the Newton-Schulz iteration
WHITENING_BIAS = 3 / 8  # fraction of the steps after which the bias of the whitening layer is frozen


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The one-cycle learning rate at `step` of `steps`: a cosine rise to `peak`, then a cosine fall to nearly zero.

    Source: Smith and Topin 2018, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates.
    """
    rise = max(1.0, WARM_UP * steps)
    low, part = (peak / 25, step / rise) if step < rise else (peak / 1e4, (steps - step) / max(1.0, steps - rise))
    return low + (peak - low) * (1 - math.cos(math.pi * min(part, 1.0))) / 2


class Optimiser:
    """AdamW for all parameters; or Muon for convolution filters and SGD for the rest.

    Muon treats a filter bank as a matrix with one filter per row, rescaled before each step so that the root mean
    square norm of the filters is 1. The SGD rates are for the sum of a batch's losses, as in Jordan 2024 (arXiv
    2404.00498); as the loss here is a mean, they are multiplied by `batch_size`. Source of Muon: Jordan et al. 2024,
    Muon: An optimizer for hidden layers in neural networks.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, batch_size: int) -> None:
        self._peak, self._one_cycle = recipe.learning_rate, recipe.optimiser == "adamw"
        self._filters: list[nn.Parameter] = []
        self._matrices: list[nn.Parameter] = []  # the same memory as `_filters`
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if self._one_cycle:
            fused = all(parameter.device.type in {"cpu", "cuda"} for parameter in trained.values())
            group = _group(trained.values(), recipe.learning_rate, recipe.weight_decay)
            self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW([group], fused=fused)]
            return
        self._filters = [parameter for parameter in trained.values() if parameter.ndim == 4]
        self._matrices = [nn.Parameter(_rows(parameter.detach())) for parameter in self._filters]
        groups = []
        for name, parameter in trained.items():
            if parameter.ndim != 4:
                rate = (HEAD_RATE if parameter.ndim == 2 else SGD_RATE) * batch_size
                rate *= recipe.learning_rate / MUON_RATE
                until = WHITENING_BIAS if "whiten" in name.split(".") else 1.0
                groups.append(_group([parameter], rate, recipe.weight_decay / rate, until))
        self._parts = [
            torch.optim.Muon(
                [_group(self._matrices, recipe.learning_rate, 0.0)], momentum=MUON_MOMENTUM, ns_steps=MUON_STEPS
            ),
            torch.optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True),
        ]

    def step(self, step: int, steps: int) -> float:
        """Update the parameters from their gradients at `step` of `steps`; returns the learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * self._share(step, steps, group["until"])
        for matrix, filters in zip(self._matrices, self._filters, strict=True):
            matrix.grad = None if filters.grad is None else _rows(filters.grad)
            if matrix.grad is not None:
                matrix.data *= math.sqrt(len(matrix)) / matrix.data.norm()
        for part in self._parts:
            part.step()
        for matrix in self._matrices:
            matrix.grad = None  # it would keep the filters' gradients in memory
        return self._peak * self._share(step, steps, 1.0)

    def _share(self, step: int, steps: int, until: float) -> float:
        """The learning rate as a fraction of its peak."""
        if self._one_cycle:
            return one_cycle(step, steps, 1.0)
        return max(0.0, 1 - step / (steps * until))

    def dump(self) -> dict[str, torch.Tensor]:
        """The optimiser's state tensors."""
        return {
            f"{number}.{name}": value
            for number, (_, state) in enumerate(self._states())
            for name, value in state.items()
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore a dump."""
        states = list(self._states())
        for key, value in tensors.items():
            number, name = key.split(".", 1)
            like, state = states[int(number)]
            # Fused optimisers need state tensors with the memory layout of their parameter.
            restored = torch.empty_like(like).copy_(value) if value.shape == like.shape else value.to(like.device)
            state[name] = restored

    def _states(self) -> Iterator[tuple[nn.Parameter, dict[str, torch.Tensor]]]:
        """Each optimised parameter and its state."""
        for part in self._parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield parameter, part.state[parameter]


def _group(parameters: Iterable[nn.Parameter], peak: float, weight_decay: float, until: float = 1.0) -> dict[str, Any]:
    """A parameter group whose learning rate falls from `peak` to 0 at the fraction `until` of the steps."""
    return {"params": list(parameters), "lr": peak, "peak": peak, "weight_decay": weight_decay, "until": until}


def _rows(filters: torch.Tensor) -> torch.Tensor:
    """A view of a channels-last filter bank (filters, channels, H, W) as a matrix with one filter per row."""
    return filters.permute(0, 2, 3, 1).view(len(filters), -1)
