"""The producer's dashboard."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.output import notice_line
from cifarctl.ui.widgets import Every, Log, Rate, bar, duration, facts, frame, rate


class ProduceView:
    """Messages sent, actual and target rate, messages in flight, current drift."""

    def __init__(self) -> None:
        self.started: events.ProduceStarted | None = None
        self.progress = events.ProduceProgress(0, 0, 0, 0.0, "")
        self._rate = Rate()
        self._log = Log(3)
        self._every = Every(5.0)

    def update(self, event: events.ProduceEvent) -> None:
        """Update the state from an event."""
        if isinstance(event, events.ProduceStarted):
            self.started = event
        elif isinstance(event, events.ProduceProgress):
            self._rate.add(event.sent - self.progress.sent)
            if event.phase != self.progress.phase:
                self._log.add(f"images now: {event.phase}")
            self.progress = event
        elif isinstance(event, events.Notice):
            self._log.add(event.message)

    def render(self) -> RenderableType:
        """The current dashboard."""
        start, now = self.started, self.progress
        if start is None:
            return frame("cifarctl produce", Text("loading images …"))
        target = "unlimited" if start.rate == 0 else f"target {start.rate:g}/s"
        sent: RenderableType = f"{now.sent:,}"
        if start.count:
            sent = Text.assemble(f"{now.sent:,} of {start.count:,}  ", bar(now.sent / start.count))
        failed = Text(f"{now.failed:,}", style="bold red" if now.failed else "")
        rows: list[tuple[str, RenderableType]] = [
            ("topic", f"{start.topic} ({start.format})"),
            ("sent", sent),
            ("rate", f"{rate(self._rate.value, 'messages')}  ({target})"),
            ("in flight", f"{now.queued:,}"),
            ("failed", failed),
            ("images", now.phase or "clean"),
        ]
        if now.labels_sent or now.labels_failed or now.labels_waiting:
            style = "bold red" if now.labels_failed else ""
            text = f"{now.labels_sent:,} sent, {now.labels_waiting:,} pending, {now.labels_failed:,} failed"
            rows.insert(4, ("labels", Text(text, style=style)))
        return frame("cifarctl produce", facts(rows), self._log.render(), subtitle=duration(now.seconds))

    def lines(self, event: events.ProduceEvent) -> Iterable[str]:
        """A line at the start, and one every five seconds."""
        if isinstance(event, events.ProduceStarted):
            count = "until stopped" if event.count is None else f"{event.count:,} messages"
            pace = "at unlimited rate" if event.rate == 0 else f"at {event.rate:g}/s"
            yield f"producing to {event.topic} ({event.format}) {pace}, {count}"
        elif isinstance(event, events.ProduceProgress) and self._every():
            labels = f"labels {event.labels_sent:,} (+{event.labels_waiting:,})  " if event.labels_waiting else ""
            yield (
                f"sent {event.sent:,}  failed {event.failed:,}  {rate(self._rate.value, 'messages')}  {labels}"
                f"images {event.phase or 'clean'}"
            )
        elif isinstance(event, events.Notice):
            yield notice_line(event)


def produce_summary(result: events.ProduceResult) -> str:
    """The human-readable result of `produce`."""
    summary = (
        f"sent {result.sent:,} messages in {duration(result.seconds)} "
        f"({rate(result.messages_per_second, 'messages')}), {result.failed:,} failed"
    )
    if result.unconfirmed:
        summary += f", {result.unconfirmed:,} unconfirmed, which may have arrived"
    if result.labels_sent or result.labels_failed or result.labels_unconfirmed:
        summary += f"; {result.labels_sent:,} delayed labels sent, {result.labels_failed:,} failed"
    if result.labels_unconfirmed:
        summary += f", {result.labels_unconfirmed:,} unconfirmed"
    return summary
