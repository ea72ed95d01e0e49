"""The training dashboard."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.output import notice_line
from cifarctl.ui.widgets import bar, duration, facts, frame, percent, rate, sparkline


class TrainView:
    """Epoch, batch, loss, validation accuracy, images per second and time left."""

    def __init__(self) -> None:
        self.started: events.TrainStarted | None = None
        self.progress: events.TrainProgress | None = None
        self.epochs: list[events.EpochDone] = []
        self.result: events.TrainResult | None = None
        self.notices: list[str] = []
        self._began = time.monotonic()

    def update(self, event: events.TrainEvent) -> None:
        """Update the state from an event."""
        if isinstance(event, events.TrainStarted):
            self.started = event
        elif isinstance(event, events.TrainProgress):
            self.progress = event
        elif isinstance(event, events.EpochDone):
            self.epochs.append(event)
        elif isinstance(event, events.TrainResult):
            self.result = event
        else:
            self.notices.append(event.message)

    def render(self) -> RenderableType:
        """The current dashboard."""
        start, now = self.started, self.progress
        if start is None:
            return frame("cifarctl train", Text("loading images …"))
        rows: list[tuple[str, RenderableType]] = [
            ("model", f"{start.model}, {start.parameters:,} parameters, {start.precision} on {start.device}"),
            ("images", f"{start.images:,} of {start.data}"),
        ]
        if now is not None:
            done = ((now.epoch - 1) * start.batches + now.batch) / (start.batches * start.epochs)
            rows += [
                ("epoch", f"{now.epoch} of {start.epochs}, batch {now.batch} of {start.batches}"),
                ("progress", Text.assemble(bar(done, 40), f"  {done:.0%}")),
                ("loss", f"{now.loss:.4f}    learning rate {now.learning_rate:.2e}"),
                ("speed", rate(now.images_per_second, "images")),
                ("time left", duration(0 if self.result else now.seconds_left)),
            ]
        accuracies = [e.validation_accuracy for e in self.epochs if e.validation_accuracy is not None]
        if accuracies:
            last = percent(accuracies[-1]) + _averaged(self.epochs[-1].validation_accuracy_tta)
            rows.append(("validation", Text.assemble(last, "  ", sparkline(accuracies, 30))))
        rows += [("", Text(notice, style="yellow")) for notice in self.notices[-2:]]
        return frame("cifarctl train", facts(rows), subtitle=duration(time.monotonic() - self._began))

    def lines(self, event: events.TrainEvent) -> Iterable[str]:
        """A line at the start and one per epoch."""
        if isinstance(event, events.TrainStarted):
            again = event.first_epoch > 1 or event.first_batch > 1
            resumed = f", resumed at epoch {event.first_epoch}, batch {event.first_batch}" if again else ""
            yield (
                f"training {event.model} ({event.parameters:,} parameters) on {event.images:,} images of {event.data}, "
                f"{event.epochs} epochs, {event.precision} on {event.device}{resumed}"
            )
        elif isinstance(event, events.EpochDone):
            total = self.started.epochs if self.started else event.epoch
            validation = (
                ""
                if event.validation_accuracy is None
                else f"  validation accuracy {percent(event.validation_accuracy)}"
                + _averaged(event.validation_accuracy_tta)
            )
            yield (
                f"epoch {event.epoch}/{total}  loss {event.loss:.4f}{validation}  "
                f"{event.seconds:.1f} s  {rate(event.images_per_second, 'images')}"
            )
        elif isinstance(event, events.Notice):
            yield notice_line(event)


def train_summary(result: events.TrainResult) -> str:
    """The human-readable result of `train`."""
    validation = (
        ""
        if result.validation_accuracy is None
        else f"validation accuracy {percent(result.validation_accuracy)}{_averaged(result.validation_accuracy_tta)}, "
    )
    averaged = _averaged(result.test_accuracy_tta)
    decision = "promoted to production" if result.promoted else "not promoted"
    return (
        f"version {result.version}: {validation}test accuracy {percent(result.test_accuracy)}{averaged} "
        f"after {result.epochs} epochs in {duration(result.seconds)}; {decision} ({result.reason})"
    )


def _averaged(accuracy: float | None) -> str:
    """The accuracy with test-time augmentation in brackets, if there is one."""
    return "" if accuracy is None else f" ({percent(accuracy)} with TTA)"
