"""Offline training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifarctl.events.notice import Notice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TrainStarted:
    """The run's frame; `first_epoch` or `first_batch` is above 1 when a checkpoint is continued."""

    model: str
    parameters: int
    images: int
    epochs: int
    first_epoch: int
    first_batch: int
    batches: int
    precision: str
    device: str
    data: str


@dataclass(frozen=True)
class TrainProgress:
    """Where the run stands; `batch` of this epoch is done, `loss` is a running mean."""

    epoch: int
    batch: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over and its checkpoint is on disk.

    `validation_accuracy_tta` is that of answers averaged over variants of an image, where those are what the model
    answers and the epoch may be the last.
    """

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float
    images_per_second: float
    validation_accuracy_tta: float | None = None


@dataclass(frozen=True, eq=False)
class Mistake:
    """A test image (3, 32, 32) uint8 that a model got wrong, and how sure it was."""

    pixels: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, eq=False)
class TrainReport:
    """What there is to draw of a training run: its epochs, and what its model does on the test images.

    `confusion[i][j]` counts images of class i predicted as j; `mistakes` are those it was surest of, the surest first.
    """

    epochs: Sequence[EpochDone]
    classes: tuple[str, ...]
    test_accuracy: float
    confusion: list[list[int]]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class TrainResult:
    """JSON of `train`.

    Accuracies are those of the network alone; those with ``tta`` of its answers averaged over variants of an image,
    where that is what the version gives.
    """

    version: int
    model: str
    epochs: int
    train_images: int
    validation_accuracy: float | None
    test_accuracy: float
    validation_accuracy_tta: float | None
    test_accuracy_tta: float | None
    target_reached: bool | None
    seconds: float
    images_per_second: float
    promoted: bool
    reason: str


TrainEvent = TrainStarted | TrainProgress | EpochDone | TrainResult | Notice
