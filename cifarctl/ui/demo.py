"""The demo's dashboard: the stage, then the dashboard of training or serving."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from rich.console import Group, RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.serve import ServeView
from cifarctl.ui.train import TrainView
from cifarctl.ui.widgets import cell, percent

TRAINING = (events.TrainStarted, events.TrainProgress, events.EpochDone, events.TrainResult)


class DemoView:
    """The stage at the top, the dashboard of training or serving below it."""

    def __init__(self) -> None:
        self.stage: events.DemoStage | None = None
        self.train: TrainView | None = None
        self.serve = ServeView()

    def update(self, event: events.DemoEvent) -> None:
        """Update the state from an event."""
        if isinstance(event, events.DemoStage):
            self.stage = event
        elif isinstance(event, TRAINING):
            self.train = self.train or TrainView()
            self.train.update(cast(events.TrainEvent, event))
        elif not isinstance(event, events.DemoResult):
            self.serve.update(event)

    def render(self) -> RenderableType:
        """The current dashboard."""
        if self.stage is None:
            return Text("loading images …")
        number = f" {self.stage.number}/{self.stage.stages} "
        head = cell(Text.assemble((number, "reverse bold"), f"  {self.stage.title}"))
        if self.serve.started is None:
            return Group(head, self.train.render()) if self.train else head
        return Group(head, self.serve.render())

    def lines(self, event: events.DemoEvent) -> Iterable[str]:
        """A line per stage, and the log lines of training and serving."""
        if isinstance(event, events.DemoStage):
            yield f"--- {event.number}/{event.stages} {event.title}"
        elif isinstance(event, TRAINING):
            if self.train is not None:
                yield from self.train.lines(cast(events.TrainEvent, event))
        elif not isinstance(event, events.DemoResult):
            yield from self.serve.lines(event)


def demo_summary(result: events.DemoResult) -> str:
    """The results, and the commands that run each part separately."""
    versions = " → ".join(map(str, result.model_versions))
    return f"""
  {result.images:,} {result.data} images in {result.seconds:.0f} s, drift: {result.drift}

  accuracy before the drift               {percent(result.accuracy_clean)}
  first 200 images after it               {percent(result.accuracy_after_drift)}
  last 1,000 images, learning online      {percent(result.accuracy_at_end)}
  the same images, model not updated      {percent(result.accuracy_left_alone)}
  challengers trained / promoted          {result.retrains} / {result.promotions}   (versions {versions})

  To run each part yourself, use one terminal per command:
    cifarctl broker
    cifarctl train --epochs 10
    cifarctl serve --online
    cifarctl produce --rate 50 --drift {result.drift}@1500-6500

  To see the learner's decisions:
    cifarctl registry history --set registry.dir={result.registry}
"""
