"""The plan of a training run by epoch: learning-rate cycles and image size."""

from __future__ import annotations

from dataclasses import dataclass


def cycle(epoch: int, epochs: int, first: int | None) -> tuple[int, int]:
    """The first and the last epoch of the learning-rate cycle that `epoch` is in; the rate ends each cycle at zero.

    Epochs count from 1. `first` is the length of the first cycle in epochs; each later one is twice as long as the one
    before (Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts). The last one takes all
    epochs that are left, so that no cycle is shorter than the first. With None there is only one cycle.
    """
    shortest = first or epochs
    begin, length = 1, shortest
    while True:
        end = begin + length - 1
        if epochs - end < shortest:
            end = epochs
        if epoch <= end:
            return begin, end
        begin, length = end + 1, 2 * length


@dataclass(frozen=True)
class Schedule:
    """The plan of a run of `epochs` epochs over images of `side` pixels.

    Attributes:
        epochs: length of the run, counted from 1.
        targeted: whether the run ends early at a target accuracy. Only then there are several cycles and small images.
        first_cycle: epochs of the first cycle.
        side: side of the images (pixels).
        early_side: side (pixels) in the first half of each cycle, by the model's recipe; None = `side`.
    """

    epochs: int
    targeted: bool
    first_cycle: int
    side: int
    early_side: int | None

    def cycle(self, epoch: int) -> tuple[int, int]:
        """The first and the last epoch of the cycle that `epoch` is in."""
        return cycle(epoch, self.epochs, self.first_cycle if self.targeted else None)

    def side_in(self, epoch: int) -> int:
        """The side (pixels) of the images of an epoch (progressive resizing: Tan and Le 2021, EfficientNetV2)."""
        begin, end = self.cycle(epoch)
        early = self.targeted and 2 * (epoch - begin + 1) <= end - begin + 1
        return min(self.early_side or self.side, self.side) if early else self.side

    def expected_steps(self, batches: int) -> dict[int, int]:
        """Expected steps on images of each side: those of the first cycle, with which a targeted run should end."""
        _, end = self.cycle(1)
        sides = [self.side_in(epoch) for epoch in range(1, end + 1)]
        return {side: sides.count(side) * batches for side in sides}
