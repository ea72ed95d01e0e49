"""Dashboard and summary of `verify-stream`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.widgets import facts, frame


class VerifyView:
    """Number of records read from each topic."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    def update(self, event: events.VerifyEvent) -> None:
        """Update the state from an event."""
        if isinstance(event, events.VerifyProgress):
            self.read[event.topic] = event.read

    def render(self) -> RenderableType:
        """The current dashboard."""
        rows: list[tuple[str, RenderableType]] = [
            (topic.rpartition(".")[2], f"{count:,} read") for topic, count in self.read.items()
        ]
        return frame("cifarctl verify-stream", facts(rows) if rows else Text("reading …"))

    def lines(self, event: events.VerifyEvent) -> Iterable[str]:
        """A line per progress event."""
        if isinstance(event, events.VerifyProgress):
            yield f"{event.topic}: {event.read:,} read"


#: Fields of the result that make it inexact, with their descriptions.
FAULTS = {
    "missing": "inputs without an answer",
    "duplicated": "inputs with several answers",
    "beyond": "answers beyond the committed or existing offsets",
    "out_of_order": "answers out of order",
    "mismatched": "answers to a different message at that offset",
    "aged_out_unread": "messages removed by retention before they were read",
    "beyond_end": "partitions committed beyond their end",
    "other_topic": "partitions committed for a deleted topic of the same name",
}
#: Fields of the result that limit the comparison without making it inexact.
NOTES = {
    "skipped": "inputs skipped by --from",
    "unread": "inputs not read yet",
    "aged_out": "answers to inputs removed by retention, not compared",
    "compacted": "answers to inputs removed by compaction, not compared",
    "unverifiable": "inputs whose answers retention or compaction may have removed, not compared",
}


def verify_faults(result: events.VerifyResult) -> str:
    """The violations in one line."""
    return f"{', '.join(_counts(result, FAULTS))}; first violation: {result.examples[0]}"


def verify_summary(result: events.VerifyResult) -> str:
    """The human-readable result of `verify-stream`."""
    answers = f"{result.predictions:,} predictions and {result.dead_letters:,} dead letters"
    verdict = "each exactly once, in order" if result.exact else "NOT each exactly once, in order"
    line = f"{result.inputs:,} inputs of {result.topic} committed by {result.group}: {answers}; {verdict}"
    return "; ".join([line, *_counts(result, NOTES), *result.notes])


def _counts(result: events.VerifyResult, words: Mapping[str, str]) -> list[str]:
    return [f"{getattr(result, name):,} {text}" for name, text in words.items() if getattr(result, name)]
