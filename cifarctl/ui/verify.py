"""What `verify-stream` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


#: What is wrong, and what is not but must be known: fields of the result and their words.
FAULTS = {
    "missing": "inputs without an answer",
    "duplicated": "with several",
    "beyond": "answers beyond what is committed or there",
    "out_of_order": "out of order",
    "mismatched": "answers to another message than the one that is there",
    "aged_out_unread": "messages aged out unread",
    "beyond_end": "partitions committed beyond their end",
    "other_topic": "partitions committed of a topic that was deleted and made anew",
}
ASIDE = {
    "skipped": "skipped by --from",
    "unread": "not read yet",
    "aged_out": "answers to inputs that have aged out, not compared",
    "compacted": "answers to inputs that were compacted away, not compared",
    "unverifiable": "inputs whose answers may have been removed by retention or compaction, not compared",
}


def verify_faults(result: events.VerifyResult) -> str:
    """What is wrong, in a line."""
    return f"{', '.join(_counts(result, FAULTS))}; the first: {result.examples[0]}"


def verify_summary(result: events.VerifyResult) -> str:
    """The last words of `verify-stream`."""
    answers = f"{result.predictions:,} predictions and {result.dead_letters:,} dead letters"
    verdict = "each exactly once, in order" if result.exact else "NOT each exactly once, in order"
    line = f"{result.inputs:,} inputs of {result.topic} committed by {result.group}: {answers}; {verdict}"
    return "; ".join([line, *_counts(result, ASIDE), *result.notes])


def _counts(result: events.VerifyResult, words: Mapping[str, str]) -> list[str]:
    return [f"{getattr(result, name):,} {text}" for name, text in words.items() if getattr(result, name)]
