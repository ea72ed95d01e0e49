"""A step of training airbench, and the gradients of its weights alone: by products of matrices and by oneDNN.

Measures, in bfloat16 on this processor, in turns: a step of `cifarctl train --model airbench` on 1,000 random images of
32 and of 24 pixels (forward, back, Muon), with cifarctl.models.convolution and with torch's own gradients; and the
gradient of the weights alone, of 288 filters over images of 3, 7 and 15 pixels, beside the convolution itself. Medians
of the rounds, and the median of the ratios of each two in turn.
Required: a step takes no longer than with torch's own gradients.

    python -m benchmarks.convolution [--rounds 7]

Exit status 1 if the requirement is missed. Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from benchmarks.bed import Requirement, verdict
from benchmarks.process import machine
from cifarctl import models
from cifarctl.models import convolution
from cifarctl.models.optimiser import Optimiser
from cifarctl.models.predictor import autocast

BATCH = 1000
FILTERS = 288
CPU = torch.device("cpu")
TORCHS, PRODUCTS = "torch's", "products"


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, but for one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name].append(1000 * (time.perf_counter() - began))
    return {name: times[1:] for name, times in found.items()}


def stepping(side: int, small: int) -> Callable[[], None]:
    """A step on images of so many pixels; those of up to `small` by products of matrices."""
    recipe = models.recipe_of("airbench")
    torch.manual_seed(0)
    model = models.build("airbench", {"classes": 10, **recipe.arguments}).to(memory_format=torch.channels_last).train()
    optimiser = Optimiser(model, recipe, BATCH)
    images = torch.randn(BATCH, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def step() -> None:
        convolution.MAX_WIDTH = small
        with autocast(CPU, "bfloat16"):
            logits = model(images)
        model.zero_grad()
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step(0, 100)

    return step


def gradients(side: int) -> dict[str, Callable[[], object]]:
    """A convolution over images of so many pixels, and the gradient of its weights in both ways."""
    images, gradient = (torch.randn(BATCH, FILTERS, side, side, dtype=torch.bfloat16) for _ in range(2))
    images, gradient = (each.to(memory_format=torch.channels_last) for each in (images, gradient))
    weight = torch.randn(FILTERS, FILTERS, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    return {
        "convolution": lambda: functional.conv2d(images, weight, padding=1),
        TORCHS: lambda: conv2d_weight(images, weight.shape, gradient, padding=1),  # type: ignore[no-untyped-call]
        PRODUCTS: lambda: convolution.weight_gradient(images, gradient),
    }


def main() -> int:
    """Measure, print, and tell whether all that is required was met."""
    parser = argparse.ArgumentParser("python -m benchmarks.convolution", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    print(machine())
    small = convolution.MAX_WIDTH
    print(f"{'gradient of the weights, ms':<30}{'convolution':>14}{TORCHS:>14}{PRODUCTS:>14}")
    for side in (3, 7, 15):
        convolved, torchs, products = (statistics.median(times) for times in in_turns(gradients(side), rounds).values())
        print(
            f"{f'{FILTERS} filters, {side} pixels':<30}{convolved:>14.0f}{torchs:>14.0f}{products:>14.0f}", flush=True
        )
    requirements = []
    for side in (32, 24):
        found = in_turns({TORCHS: stepping(side, 0), PRODUCTS: stepping(side, small)}, rounds)
        torchs, products = (statistics.median(times) for times in found.values())
        print(f"{f'a step, {side} pixels':<44}{torchs:>14.0f}{products:>14.0f}", flush=True)
        ratio = statistics.median(b / a for a, b in zip(*found.values(), strict=True))
        requirements.append(Requirement(f"a step on {side} pixels : with torch's own gradients", ratio, 0, 1.0))
    return verdict("convolution", requirements)


if __name__ == "__main__":
    sys.exit(main())
