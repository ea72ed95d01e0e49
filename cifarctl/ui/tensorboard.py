"""Metrics of a training run as TensorBoard events; needs the package `tensorboard`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cifarctl import events
from cifarctl.errors import SettingsError


def require() -> None:
    """Check that TensorBoard is installed.

    Raises:
        SettingsError: it is not.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise SettingsError("--log tensorboard: TensorBoard is not installed; pip install tensorboard") from None


def recorded(stream: Iterator[events.TrainEvent], folder: Path) -> Iterator[events.TrainEvent]:
    """Yield the same events, and write loss, learning rate, throughput and validation accuracy to `folder`.

    The x-axis is the optimiser step.
    """
    from torch.utils.tensorboard import SummaryWriter

    batches = 0
    with SummaryWriter(str(folder)) as writer:
        for event in stream:
            figures: dict[str, float | None] = {}
            step = 0
            if isinstance(event, events.TrainStarted):
                batches = event.batches
            elif isinstance(event, events.TrainProgress):
                step = (event.epoch - 1) * batches + event.batch
                figures = {
                    "train/loss": event.loss,
                    "train/learning_rate": event.learning_rate,
                    "train/images_per_second": event.images_per_second,
                }
            elif isinstance(event, events.EpochDone):
                step = event.epoch * batches
                figures = {
                    "validation/accuracy": event.validation_accuracy,
                    "validation/accuracy_tta": event.validation_accuracy_tta,
                }
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(name, value, step)
            yield event
