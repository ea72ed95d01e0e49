"""Eager PyTorch; in float32 it is the reference that all other backends must agree with."""

from __future__ import annotations

import torch

from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.predictor import PRECISIONS, Precision, Predictor


class Eager(Backend):
    """A backend around `Predictor`, which all commands but serve use directly."""

    name = "eager"
    cpu_only = False

    def __init__(self, network: Network, plan: Plan) -> None:
        super().__init__(network, plan)
        self._predictor = Predictor(
            network.model,
            network.mean,
            network.std,
            device=plan.device,
            precision=plan.precision,
            batch_size=plan.chunk,
        )

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """Both, on every machine."""
        return PRECISIONS

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._predictor(pixels)


BACKEND = Eager
