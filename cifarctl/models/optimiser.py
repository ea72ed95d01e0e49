"""The optimisers of offline training, AdamW and Muon, with their learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cifarctl.models.recipe import Recipe

WARM_UP = 0.25  # share of the steps in which the learning rate rises
MUON_RATE = 0.24  # at which the next two are what they are; another rate changes them as well
SGD_RATE = 0.053  # an image, of what is no filter, where Muon is for the filters, ...
HEAD_RATE = 0.67  # ... and of the last layer
SGD_MOMENTUM = 0.85
MUON_MOMENTUM = 0.6
MUON_STEPS = 3  # of the Newton-Schulz iteration
WHITENED = 3 / 8  # share of the steps after which the bias of a whitened input stays as it is


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The learning rate of `step` of `steps`: a cosine rise to `peak`, then a cosine fall to nearly zero.

    Smith and Topin 2018, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates.
    """
    rise = max(1.0, WARM_UP * steps)
    low, part = (peak / 25, step / rise) if step < rise else (peak / 1e4, (steps - step) / max(1.0, steps - rise))
    return low + (peak - low) * (1 - math.cos(math.pi * min(part, 1.0))) / 2


class Optimiser:
    """AdamW for all weights; or Muon for the filters of convolutions, with SGD for the rest.

    Muon: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks. A filter bank is the matrix of
    its filters, each a row, and is kept at the norm that it would have if each filter's were 1. What SGD changes has
    rates for the sum of the losses of a batch (Jordan 2024, arXiv 2404.00498), so for their mean `batch_size` times as
    much.
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
                until = WHITENED if "whiten" in name.split(".") else 1.0
                groups.append(_group([parameter], rate, recipe.weight_decay / rate, until))
        self._parts = [
            torch.optim.Muon(
                [_group(self._matrices, recipe.learning_rate, 0.0)], momentum=MUON_MOMENTUM, ns_steps=MUON_STEPS
            ),
            torch.optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True),
        ]

    def step(self, step: int, steps: int) -> float:
        """Update the weights from their gradients, in `step` of `steps` of a cycle; returns the learning rate."""
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
            matrix.grad = None  # or the filters' would be kept as long
        return self._peak * self._share(step, steps, 1.0)

    def _share(self, step: int, steps: int, until: float) -> float:
        """Of the peak of the learning rate."""
        if self._one_cycle:
            return one_cycle(step, steps, 1.0)
        return max(0.0, 1 - step / (steps * until))

    def dump(self) -> dict[str, torch.Tensor]:
        """The state of the optimiser, as tensors by name."""
        return {
            f"{number}.{name}": value
            for number, (_, state) in enumerate(self._states())
            for name, value in state.items()
        }

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore a state that `dump` returned."""
        states = list(self._states())
        for key, value in tensors.items():
            number, name = key.split(".", 1)
            like, state = states[int(number)]
            # A fused optimiser walks through memory: moments must lie in it as their parameter does.
            laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value.to(like.device)
            state[name] = laid

    def _states(self) -> Iterator[tuple[nn.Parameter, dict[str, torch.Tensor]]]:
        """Each parameter that is changed, and what is remembered of it."""
        for part in self._parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield parameter, part.state[parameter]


def _group(parameters: Iterable[nn.Parameter], peak: float, weight_decay: float, until: float = 1.0) -> dict[str, Any]:
    """Parameters whose learning rate has its `peak`, and has fallen to nothing when `until` of all steps are made."""
    return {"params": list(parameters), "lr": peak, "peak": peak, "weight_decay": weight_decay, "until": until}


def _rows(filters: torch.Tensor) -> torch.Tensor:
    """A filter bank (filters, channels, H, W), channels last, as a matrix: a row a filter, the same memory."""
    return filters.permute(0, 2, 3, 1).view(len(filters), -1)
