"""The adaptive learning rate of updates: maximum after a drift, then decaying."""

from __future__ import annotations

from dataclasses import dataclass

DECAY = 0.7  # factor per update without drift; hand-chosen, lower: forgets less, adapts more slowly later


@dataclass
class AdaptiveRate:
    """A learning rate between `lowest` and `highest` that follows drift signals instead of a fixed schedule.

    Source of the idea: Kuncheva and Plumpton 2008, Adaptive Learning Rate for Online Linear Discriminant Classifiers.
    """

    base: float
    lowest: float
    highest: float
    value: float = 0.0

    def __post_init__(self) -> None:
        self.lowest, self.highest = min(self.lowest, self.base), max(self.highest, self.base)
        self.value = self.value or self.base

    def drift(self) -> bool:
        """Set the highest rate after a drift; returns whether the rate changed."""
        return self._set(self.highest)

    def calm(self) -> bool:
        """Decay the rate by one step, as no drift was detected; returns whether the rate changed."""
        return self._set(max(self.lowest, self.value * DECAY))

    def _set(self, value: float) -> bool:
        changed, self.value = value != self.value, value
        return changed
