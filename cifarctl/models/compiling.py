"""torch.compile for training, if the run is long enough to make up for the compilation time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import nn

from cifarctl.models import threads
from cifarctl.models.backends import Unusable, failures
from cifarctl.models.predictor import MEASURED, Precision, autocast, fastest

# Rough values, chosen for `auto`; benchmarks/FINDINGS.md, "Training", has measurements.
COMPILING_S = 60.0  # typical compilation time; higher: only longer runs try to compile
EXPECTED_SAVING = 0.2  # fraction of a run's time that compiling may save; higher: shorter runs try it too
MAX_STEP_RATIO = 0.9  # maximum time of a compiled step relative to an eager one; rejects gains within the noise

Wanted = Literal["auto", "on", "off"]


def compiled(
    wanted: Wanted, model: nn.Module, device: torch.device, precision: Precision, batch: int, steps: Mapping[int, int]
) -> nn.Module | None:
    """`model` compiled for training, or None if that is not worthwhile.

    ``auto`` compiles if a fifth of the run exceeds the compilation time, which is due once per image size, and if a
    compiled step on the largest images is measurably faster. The model's parameters and statistics and the random
    generators are left unchanged.

    Args:
        wanted: the setting train.compile.
        model: it is about to be trained.
        device: where.
        precision: of the forward pass.
        batch: images per step.
        steps: number of steps by side of the images, in pixels.

    Raises:
        Unusable: compiling is wanted or worthwhile, but fails or yields gradients that are not finite.
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
            equivalent = sum(
                count * (side / largest) ** 2 for side, count in steps.items()
            )  # steps of the largest side
            if step * equivalent * EXPECTED_SAVING < COMPILING_S * len(steps):
                return None
        pictures = _pictures(batch, largest, device)
        with failures("torch.compile"):
            threads.bound_compilers()
            fast = cast(nn.Module, torch.compile(model, dynamic=False))
            finite = all(_finite_gradients(fast, _pictures(batch, side, device), precision) for side in steps)
            step = _step(fast, pictures, precision)
        if not finite:
            raise Unusable("torch.compile yields gradients that are not finite")
        return fast if wanted == "on" or step < MAX_STEP_RATIO * _step(model, pictures, precision) else None


def _step(model: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    """Seconds of the faster of two training steps, after a warm-up step that compiles."""
    return fastest(model, images, precision, train=True, passes=2)


def _finite_gradients(model: nn.Module, images: torch.Tensor, precision: Precision) -> bool:
    """Whether all gradients of a training step are finite."""
    with autocast(images.device, precision):
        logits = model(images)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(logits.float().logsumexp(dim=1).sum(), trained, allow_unused=True)
    return all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def _pictures(count: int, side: int, device: torch.device) -> torch.Tensor:
    return torch.rand(count, 3, side, side, device=device).to(memory_format=torch.channels_last)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Set training mode, and restore mode, buffers (batch-norm statistics) and random generators afterwards."""
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
