"""The adaptive learning rate of online updates: up at once after drift, down by steps in calm."""

from __future__ import annotations

from dataclasses import dataclass

DECAY = 0.7


@dataclass
class AdaptiveRate:
    """A rate between `lowest` and `highest`: fast while the concept moves, careful while it stays.

    The idea of Kuncheva and Plumpton 2008, Adaptive Learning Rate for Online Linear Discriminant Classifiers:
    the rate follows the error, not the clock.
    """

    base: float
    lowest: float
    highest: float
    value: float = 0.0

    def __post_init__(self) -> None:
        self.lowest, self.highest = min(self.lowest, self.base), max(self.highest, self.base)
        self.value = self.value or self.base

    def drift(self) -> bool:
        """The concept moved: the highest rate. Whether that is a change."""
        return self._set(self.highest)

    def calm(self) -> bool:
        """No drift for a while: one step towards the lowest rate."""
        return self._set(max(self.lowest, self.value * DECAY))

    def _set(self, value: float) -> bool:
        changed, self.value = value != self.value, value
        return changed
