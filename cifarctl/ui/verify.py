"""What `verify-stream` shows."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.widgets import facts, frame


class VerifyView:
    """How far the topics have been read."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    def update(self, event: events.VerifyEvent) -> None:
        """Take in what happened."""
        if isinstance(event, events.VerifyProgress):
            self.read[event.topic] = event.read

    def render(self) -> RenderableType:
        """The panel."""
        rows: list[tuple[str, RenderableType]] = [
            (topic.rpartition(".")[2], f"{count:,} read") for topic, count in self.read.items()
        ]
        return frame("cifarctl verify-stream", facts(rows) if rows else Text("reading …"))

    def lines(self, event: events.VerifyEvent) -> Iterable[str]:
        """One line a step."""
        if isinstance(event, events.VerifyProgress):
            yield f"{event.topic}: {event.read:,} read"


def verify_summary(result: events.VerifyResult) -> str:
    """The last words of `verify-stream`."""
    answers = f"{result.predictions:,} predictions and {result.dead_letters:,} dead letters"
    verdict = "each exactly once, in order" if result.exact else "NOT each exactly once, in order"
    return f"{result.inputs:,} inputs of {result.topic} committed by {result.group}: {answers}; {verdict}"
