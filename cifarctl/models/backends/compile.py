"""torch.compile: kernels made for this network by a C++ compiler, in half a minute or so."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cifarctl.models import threads
from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.predictor import PRECISIONS, Precision, autocast
from cifarctl.models.preprocess import Whole

FEWEST = 2
"""A batch of one would be compiled for itself: sizes 0 and 1 are never dynamic."""

Function = Callable[[Whole, torch.Tensor], torch.Tensor]


class Compiled(Backend):
    """Compiled once, for batches of any size and any weights of the architecture."""

    name = "compile"
    cpu_only = False
    warms_up = True

    def __init__(self, network: Network, plan: Plan, function: Function | None = None) -> None:
        """`function` is what another network of the same architecture was compiled to."""
        super().__init__(network, plan)
        self._whole = network.whole().to(plan.device).to(memory_format=torch.channels_last)
        if function is None:
            threads.bound_compilers()
        self._function = function or torch.compile(_forward)
        # What is compiled holds for a range of sizes (kernels change at 16, say), so that all ranges are met here.
        for size in sorted({max(FEWEST, plan.chunk), *(2**power for power in range(1, plan.chunk.bit_length()))}):
            example = torch.zeros(size, 3, 32, 32, dtype=torch.uint8)
            torch._dynamo.mark_dynamic(example, 0)
            self._run(example)

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """Both, everywhere."""
        return PRECISIONS

    def renew(self, network: Network) -> Backend:
        """Without compiling again: weights are arguments of what was compiled."""
        return Compiled(network, self.plan, self._function)

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        # Tensors of inference mode are another kind, for which all would be compiled once more.
        with torch.inference_mode(False), torch.no_grad(), autocast(self.plan.device, self.plan.precision):
            if count < FEWEST:
                pixels = torch.cat([pixels, torch.zeros(FEWEST - count, 3, 32, 32, dtype=torch.uint8)])
            elif pixels.is_inference():
                pixels = pixels.clone()
            return self._function(self._whole, pixels.to(self.plan.device))[:count].cpu()


def _forward(whole: Whole, pixels: torch.Tensor) -> torch.Tensor:
    probabilities: torch.Tensor = whole(pixels)
    return probabilities


BACKEND = Compiled
