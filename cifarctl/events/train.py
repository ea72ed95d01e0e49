"""Events of `train`."""

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
    """Training begins; `first_epoch` or `first_batch` is above 1 when it resumes from a checkpoint."""

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
    """Progress after `batch` of `epoch`; `loss` is a running mean."""

    epoch: int
    batch: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is complete and its checkpoint is on disk.

    `validation_accuracy_tta` is the accuracy with test-time augmentation; it is measured if the model uses that and
    the epoch may be the last.
    """

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float
    images_per_second: float
    validation_accuracy_tta: float | None = None


@dataclass(frozen=True, eq=False)
class Mistake:
    """A misclassified test image, `pixels` (3, 32, 32) uint8, and the model's confidence in its prediction."""

    pixels: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, eq=False)
class TrainReport:
    """The data for the plots of a training run: its epochs, and the model's results on the test images.

    `confusion[i][j]` counts images of class i predicted as j; `mistakes` are the most confident ones, in descending
    order of confidence.
    """

    epochs: Sequence[EpochDone]
    classes: tuple[str, ...]
    test_accuracy: float
    confusion: list[list[int]]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class TrainResult:
    """JSON of `train`.

    The ``_tta`` accuracies are measured with test-time augmentation, and None if the version does not use it. The other
    accuracies are measured without it.
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
