"""torch.compile for a run of training, where the run is long enough to earn back what compiling takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import nn

from cifarctl.models import threads
from cifarctl.models.backends import Unusable, failures
from cifarctl.models.predictor import MEASURED, Precision, autocast, fastest

COMPILING_S = 60.0  # that it takes, about
HOPED_FOR = 0.2  # share of a run's seconds that it saves where it pays
PAYS = 0.9  # of the eager step's seconds are the most that a compiled step may take

Wanted = Literal["auto", "on", "off"]


def compiled(
    wanted: Wanted, model: nn.Module, device: torch.device, precision: Precision, batch: int, steps: Mapping[int, int]
) -> nn.Module | None:
    """`model`, which is about to be trained for so many `steps` of `batch` images of each side, compiled.

    None: not worth it. Auto compiles where a fifth of the run is longer than compiling takes, once for each side, and
    a compiled step on the largest images then measures faster. The model's parameters and statistics and the random
    generators are left as they were.

    Raises:
        Unusable: it is wanted, or would be worth it, and fails here or makes gradients that are not finite.
    """
    there = device.type in {"cpu", "cuda"}
    if wanted == "on" and not there:
        raise Unusable(f"torch.compile is not used on {device}")
    if wanted == "off" or not there:
        return None
    with _left_alone(model):
        few = min(batch, MEASURED) if device.type == "cpu" else batch
        largest = max(steps)
        if wanted == "auto":
            step = _step(model, _pictures(few, largest, device), precision) * batch / few
            whole = sum(count * (side / largest) ** 2 for side, count in steps.items())  # as much work as so many
            if step * whole * HOPED_FOR < COMPILING_S * len(steps):
                return None
        pictures = _pictures(batch, largest, device)
        with failures("torch.compile"):
            threads.bound_compilers()
            quick = cast(nn.Module, torch.compile(model, dynamic=False))
            finite = all(_finite_gradients(quick, _pictures(batch, side, device), precision) for side in steps)
            step = _step(quick, pictures, precision)
        if not finite:
            raise Unusable("torch.compile makes gradients that are not finite")
        return quick if wanted == "on" or step < PAYS * _step(model, pictures, precision) else None


def _step(model: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    """Seconds of the faster of two, after one to warm up, in which it is compiled."""
    return fastest(model, images, precision, train=True, passes=2)


def _finite_gradients(model: nn.Module, images: torch.Tensor, precision: Precision) -> bool:
    """Whether those of a step are all finite."""
    with autocast(images.device, precision):
        logits = model(images)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(logits.float().logsumexp(dim=1).sum(), trained, allow_unused=True)
    return all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def _pictures(count: int, side: int, device: torch.device) -> torch.Tensor:
    return torch.rand(count, 3, side, side, device=device).to(memory_format=torch.channels_last)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """In training mode, in which a forward pass moves statistics."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        model.train(was_training)
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
