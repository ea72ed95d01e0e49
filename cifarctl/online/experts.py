"""Weights of experts that follow whichever is best at present."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class FixedShare:
    """Weights that rise with the probability an expert gave to what came, and never die.

    Herbster and Warmuth 1998, Tracking the Best Expert (Machine Learning 32): after each outcome weights are multiplied
    by the probability that the expert gave it, to the power `eta`, and then every expert gives the share `alpha` of its
    weight to all. For `eta` <= 1 the loss of the mixture of their probabilities (minus the logarithm of what it gave to
    the outcome) is bounded: see `bound`.
    """

    def __init__(self, names: Sequence[str], eta: float, alpha: float) -> None:
        self.eta, self.alpha = eta, alpha
        self.weights = dict.fromkeys(names, 1 / len(names))

    def add(self, name: str) -> None:
        """Let one more expert in, with the share that every other gives away at each outcome."""
        share = self.alpha
        self.weights = {other: weight * (1 - share) for other, weight in self.weights.items()} | {name: share}

    def remove(self, name: str) -> None:
        """Take an expert out; the others keep their proportions."""
        del self.weights[name]
        total = sum(self.weights.values())
        self.weights = {other: weight / total for other, weight in self.weights.items()}

    def restart(self, weights: dict[str, float]) -> None:
        """Begin anew with these weights, all together 1, but for the share that every expert gives to all."""
        share = self.alpha / len(self.weights)
        self.weights = {name: (1 - self.alpha) * weights.get(name, 0.0) + share for name in self.weights}

    def update(self, given: dict[str, float]) -> None:
        """Take in one outcome: the probability that each expert gave to it."""
        grown = {name: weight * max(given[name], 1e-6) ** self.eta for name, weight in self.weights.items()}
        total, share = sum(grown.values()), self.alpha / len(grown)
        self.weights = {name: (1 - self.alpha) * weight / total + share for name, weight in grown.items()}

    def bound(self, outcomes: int, switches: int) -> float:
        """Nats by which the mixture's loss over `outcomes` may exceed that of the best sequence of experts.

        Of all sequences that change the expert at most `switches` times, whatever the outcomes are, while no expert is
        added or removed and none gives less than 1e-6 to what comes.
        """
        experts = len(self.weights)
        stay = math.log(1 / (1 - self.alpha + self.alpha / experts))
        move = math.log(experts / self.alpha)
        return (math.log(experts) + switches * move + max(0, outcomes - 1 - switches) * stay) / self.eta

    def vector(self, names: Sequence[str]) -> torch.Tensor:
        """The weights of `names`, in that order, (N,) float32."""
        return torch.tensor([self.weights[name] for name in names])
