"""Whether a faster backend predicts the same as float32 eager."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

SAME = 0.995  # smallest share of images that must get the same class
ACCURACY = 0.002  # largest difference of accuracy, either way; one image where there are few


@dataclass(frozen=True)
class Agreement:
    """Figures over `images` validation images: the share of equal classes, and both accuracies (0–1)."""

    images: int
    same: float
    accuracy: float
    reference: float

    @property
    def ok(self) -> bool:
        """Whether the backend is close enough to serve."""
        allowed = max(ACCURACY, 1 / self.images) if self.images else ACCURACY
        return self.same >= SAME and abs(self.accuracy - self.reference) <= allowed + 1e-9

    @classmethod
    def parse(cls, value: Mapping[str, Any] | None) -> Agreement | None:
        """The agreement in the form of `dataclasses.asdict`; None where the value is something else."""
        names = ("images", "same", "accuracy", "reference")
        numbers = [(value or {}).get(name) for name in names]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            return None
        images, *shares = (float(number) for number in numbers if number is not None)
        return cls(int(images), *shares)

    def __str__(self) -> str:
        return (
            f"the same class on {self.same:.2%} of {self.images:,} validation images, accuracy {self.accuracy:.2%} "
            f"against {self.reference:.2%}; {SAME:.1%} and {ACCURACY * 100:.1f} points are required"
        )


def compare(found: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor) -> Agreement:
    """Compare probabilities (N, classes) with those of the reference, N > 0; labels (N,) int64.

    An image whose probabilities are not all finite counts as another class, and as wrong.
    """
    predicted = found.argmax(dim=1).where(found.isfinite().all(dim=1), torch.tensor(-1))
    expected = reference.argmax(dim=1)
    return Agreement(
        images=len(labels),
        same=_share(predicted == expected),
        accuracy=_share(predicted == labels),
        reference=_share(expected == labels),
    )


def _share(flags: torch.Tensor) -> float:
    return flags.double().mean().item()
