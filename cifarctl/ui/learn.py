"""The learner's part of a dashboard, and the dashboard of `retrain`."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.output import notice_line
from cifarctl.ui.pulse import Pulse
from cifarctl.ui.widgets import Log, bar, duration, facts, frame, percent


class LearnPanel:
    """The learner's rows: buffer, drift, served accuracy, shadow, next and last update."""

    def __init__(self) -> None:
        self.status: events.LearnerStatus | None = None
        self.retraining: events.RetrainStarted | None = None
        self.last: events.RetrainResult | None = None
        self.drift: events.DriftDetected | None = None
        self.down: events.LearnerDown | None = None
        self._last_at = 0.0

    def update(self, event: events.ServeEvent) -> None:
        """Update the panel with an event."""
        if isinstance(event, events.LearnerStatus):
            self.status, self.down = event, None
        elif isinstance(event, events.RetrainStarted):
            self.retraining = event
        elif isinstance(event, events.RetrainResult):
            self.retraining, self.last, self._last_at = None, event, time.monotonic()
        elif isinstance(event, events.DriftDetected):
            self.drift = event
        elif isinstance(event, events.LearnerDown):
            self.down, self.retraining = event, None

    def rows(self) -> list[tuple[str, RenderableType]]:
        """The current rows, at most seven."""
        now = self.status
        if self.down is not None:
            return [("learner", Text(_down_text(self.down), style="bold red"))]
        if now is None:
            return [("learner", Text("starting …", style="dim"))]
        fill = now.size / now.capacity
        counts = now.class_counts
        balance = f"  {min(counts)}–{max(counts)} per class" if counts else ""
        rows: list[tuple[str, RenderableType]] = [
            (
                "buffer",
                Text.assemble(f"{now.size:,} / {now.capacity:,}  ", bar(fill, 16), f" {fill:.0%}{balance}"),
            ),
            ("waiting", f"{now.waiting:,} images for their labels{_unmatched(now)}"),
            ("drift", self._drift_text(now)),
            ("served", served_text(now.served)),
            ("shadow", _shadow_text(now.shadow)),
        ]
        if self.retraining is not None:
            update = Text(f"retraining on {self.retraining.examples} new ({self.retraining.trigger}) …", style="bold")
        else:
            update = Text(f"in {now.until_update:,} labelled images    learning rate {now.learning_rate:.1e}")
        rows += [("next update", update), ("last update", self._last_text())]
        return rows

    def _drift_text(self, now: events.LearnerStatus) -> Text:
        if self.drift is None:
            return Text("none detected", style="green")
        seen = f"{_errors(self.drift)}at image {self.drift.at:,}"
        if now.drift == "drift":
            return Text(f"DRIFT  {seen}", style="bold red")
        return Text.assemble(("no drift", "green"), f"  last: {seen}")

    def _last_text(self) -> Text:
        if self.last is None:
            return Text("none yet", style="dim")
        ago = f"{duration(time.monotonic() - self._last_at)} ago  "
        style = "bold green" if self.last.outcome == "promoted" else "yellow"
        return Text.assemble((ago, "dim"), (outcome(self.last), style))


def _unmatched(now: events.LearnerStatus) -> str:
    return f"    {now.labels_unmatched:,} labels match no image" if now.labels_unmatched else ""


def served_text(served: Iterable[events.ServedRecord]) -> str:
    """The accuracy of published predictions by version, newest version first."""
    parts = [
        f"version {record.version} {percent(record.accuracy)} of {record.labelled:,}"
        for record in sorted(served, key=lambda record: -record.version)
    ]
    return "    ".join(parts) or "no labelled predictions yet"


def _shadow_text(shadow: events.Shadow | None) -> Text:
    if shadow is None:
        return Text("none", style="dim")
    who = "challenger" if shadow.version is None else f"version {shadow.version}"
    if not shadow.images:
        return Text(f"{who}, no labelled images yet")
    return Text(
        f"{who} {percent(shadow.accuracy)} vs champion {percent(shadow.served)} on {shadow.images:,} images; "
        f"e-value {shadow.evidence:.1f} of {shadow.wanted:.0f}"
    )


def outcome(result: events.RetrainResult) -> str:
    """The result of an update in one line, with the deciding reason first."""
    what = result.outcome.replace("_", " ")
    if result.outcome == "promoted":
        what = f"{'updated to' if result.update else 'promoted'} version {result.challenger['version']}"
    return f"{what}: {'; '.join(result.reasons)}"


def _errors(drift: events.DriftDetected) -> str:
    if drift.error_after is None:
        return ""
    return f"error {percent(drift.error_before)} → {percent(drift.error_after)}, "


def _down_text(down: events.LearnerDown) -> str:
    if down.delay is None:
        return f"{down.reason}; no further restart"
    return f"{down.reason}; restarting in {down.delay:.0f} s (restart {down.restarts})"


def learn_line(event: events.ServeEvent) -> str | None:
    """The log line of a learner's event; None if it has none."""
    if isinstance(event, events.LearnerStarted):
        return f"learner started from version {event.version} ({event.strategy}, buffer {event.size}/{event.capacity})"
    if isinstance(event, events.DriftDetected):
        seen = f"{_errors(event)}detected by {event.detector} at image {event.at:,}"
        return f"drift: {seen}, began about {event.since} images earlier"
    if isinstance(event, events.RateChanged):
        return f"learning rate {event.old:.1e} → {event.new:.1e}: {event.reason}"
    if isinstance(event, events.RetrainStarted):
        return f"retraining ({event.strategy}) on {event.examples} new examples: {event.trigger}"
    if isinstance(event, events.RetrainResult):
        return f"{outcome(event)} ({event.seconds:.1f} s)"
    if isinstance(event, events.RolledBack):
        return f"rolled back from version {event.old} to {event.new}: {event.reason}"
    if isinstance(event, events.ChampionChanged):
        return f"learner follows the alias from version {event.old} to {event.new}"
    if isinstance(event, events.LearnerDown):
        return f"learner down: {_down_text(event)}"
    if isinstance(event, events.Waiting):
        return f"waiting: {event.reason}"
    if isinstance(event, events.Notice):
        return notice_line(event)
    return None


class RetrainView:
    """The dashboard of `retrain`."""

    def __init__(self) -> None:
        self.panel = LearnPanel()
        self._log = Log(6)
        self._pulse = Pulse(10.0)
        self._began = time.monotonic()

    def update(self, event: events.LearnEvent) -> None:
        """Update the state from an event."""
        self.panel.update(event)
        line = learn_line(event)
        if line is not None:
            self._log.add(line)

    def render(self) -> RenderableType:
        """The current dashboard."""
        rows = self.panel.rows()
        status = self.panel.status
        if status is not None:
            rows.insert(
                0,
                ("labelled", f"{status.labelled:,} seen    prequential accuracy {percent(status.accuracy)}"),
            )
        return frame(
            "cifarctl retrain",
            facts(rows),
            self._log.render(),
            subtitle=duration(time.monotonic() - self._began),
        )

    def lines(self, event: events.LearnEvent) -> Iterable[str]:
        """A line for every decision, and status lines as often as `Pulse` allows."""
        line = learn_line(event)
        if line is not None:
            yield line
        elif isinstance(event, events.LearnerStatus) and self._pulse(_figures(event), resting=not event.lag):
            yield (
                f"labelled {event.labelled:,}  buffer {event.size:,}/{event.capacity:,}  {_waiting(event)}"
                f"accuracy {percent(event.accuracy)}  served: {served_text(event.served)}  "
                f"next update in {event.until_update:,}"
            )


def _figures(status: events.LearnerStatus) -> tuple[object, ...]:
    """The values whose change is worth another status line."""
    return status.labelled, status.size, status.waiting, status.labels_unmatched, status.lag, status.served


def _waiting(status: events.LearnerStatus) -> str:
    """Consumer lag, images that wait for labels and labels without an image; ends with a separator."""
    lag = "" if status.lag is None else f"lag {status.lag:,}  "
    images = f"{status.waiting:,} images waiting for labels  " if status.waiting else ""
    labels = f"{status.labels_unmatched:,} labels match no image  " if status.labels_unmatched else ""
    return lag + images + labels
