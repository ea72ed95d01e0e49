"""Fixed Share: weights of experts that track the currently best one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class FixedShare:
    """Expert weights under the Fixed Share algorithm with logarithmic loss.

    Each outcome multiplies an expert's weight by the probability that the expert assigned to it, to the power `eta`.
    Then every expert distributes the fraction `alpha` of its weight equally among all, so that no weight vanishes. For
    `eta` <= 1 the logarithmic loss of the mixture is bounded: see `bound`. Source: Herbster and Warmuth 1998, Tracking
    the Best Expert (Machine Learning 32).
    """

    def __init__(self, names: Sequence[str], eta: float, alpha: float) -> None:
        self.eta, self.alpha = eta, alpha
        self.weights = dict.fromkeys(names, 1 / len(names))

    def add(self, name: str) -> None:
        """Add an expert with weight `alpha`; the other weights shrink in proportion."""
        share = self.alpha
        self.weights = {other: weight * (1 - share) for other, weight in self.weights.items()} | {name: share}

    def remove(self, name: str) -> None:
        """Remove an expert; the other weights grow in proportion."""
        del self.weights[name]
        total = sum(self.weights.values())
        self.weights = {other: weight / total for other, weight in self.weights.items()}

    def restart(self, weights: dict[str, float]) -> None:
        """Set the weights to `weights`, which sum to 1, followed by one share step; missing experts have weight 0."""
        share = self.alpha / len(self.weights)
        self.weights = {name: (1 - self.alpha) * weights.get(name, 0.0) + share for name in self.weights}

    def update(self, given: dict[str, float]) -> None:
        """Update the weights with one outcome; `given` is the probability that each expert assigned to it."""
        grown = {name: weight * max(given[name], 1e-6) ** self.eta for name, weight in self.weights.items()}
        total, share = sum(grown.values()), self.alpha / len(grown)
        self.weights = {name: (1 - self.alpha) * weight / total + share for name, weight in grown.items()}

    def bound(self, outcomes: int, switches: int) -> float:
        """Upper bound in nats on the mixture's excess loss over the best sequence of experts.

        The bound covers `outcomes` outcomes and all sequences with at most `switches` changes of expert. It holds for
        any outcomes, if no expert is added or removed and none assigns less than 1e-6 to an outcome.
        """
        experts = len(self.weights)
        stay = math.log(1 / (1 - self.alpha + self.alpha / experts))
        move = math.log(experts / self.alpha)
        return (math.log(experts) + switches * move + max(0, outcomes - 1 - switches) * stay) / self.eta

    def vector(self, names: Sequence[str]) -> torch.Tensor:
        """The weights of `names` in that order, (N,) float32."""
        return torch.tensor([self.weights[name] for name in names])
