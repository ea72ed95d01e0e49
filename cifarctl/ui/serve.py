"""The predictor's dashboard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from cifarctl import events
from cifarctl.tally import Tally
from cifarctl.ui.canary import canary_line, canary_rows
from cifarctl.ui.learn import LearnPanel, learn_line
from cifarctl.ui.pulse import Pulse
from cifarctl.ui.widgets import (
    Log,
    Rate,
    duration,
    facts,
    frame,
    milliseconds,
    percent,
    ranges,
    rate,
    sparkline,
)

POINT = 25  # labelled images per point of the sparkline


class ServeView:
    """Accuracy, throughput, version, lag, commits, dead letters; with a learner also its rows."""

    def __init__(self, *, print_images: bool = False) -> None:
        self.started: events.ServeStarted | None = None
        self.tally = Tally()
        self.version = 0
        self.status = events.StreamStatus(lag=None, queue=0, commits=0, undone=0, paused=False)
        self.partitions: tuple[int, ...] = ()
        self.panel = LearnPanel()
        self.points: deque[float] = deque(maxlen=64)
        self._open_point: list[bool] = []
        self._rate = Rate()
        self._log = Log(4)
        self._pulse = Pulse(5.0)
        self._print_images = print_images
        self._began = time.monotonic()

    def update(self, event: events.ServeEvent) -> None:
        """Update the state from an event."""
        self.tally.update(event)
        self.panel.update(event)
        if isinstance(event, events.BatchServed):
            self._served(event)
        elif isinstance(event, events.ServeStarted):
            self.started, self.version = event, event.version
        elif isinstance(event, events.Swapped):
            self.version = event.new
            if self.started is not None:
                changed = {name: getattr(event, name) for name in ("model", "backend", "precision")}
                self.started = replace(self.started, **{name: value for name, value in changed.items() if value})
        elif isinstance(event, events.StreamStatus):
            self.status = event
        elif isinstance(event, events.Assigned):
            self.partitions = event.partitions
        for line in self._news(event):
            self._log.add(line)

    def render(self) -> RenderableType:
        """The current dashboard, at most 22 rows."""
        start, tally = self.started, self.tally
        name = "cifarctl serve"
        if start is None:
            return frame(name, Text("loading the model …"))
        latency = tally.latencies
        canary = canary_rows(tally, self.version, start.canary) if start.canary else []
        letters = Text(f"{tally.dead_lettered:,}", style="bold red" if tally.dead_lettered else "")
        rows: list[tuple[str, RenderableType]] = [
            (
                "accuracy",
                Text.assemble(
                    (percent(tally.recent_accuracy), "bold"),
                    " recent   ",
                    percent(tally.accuracy),
                    " overall   ",
                    sparkline(self.points, 24),
                ),
            ),
            (
                "predicted",
                f"{tally.predicted:,} ({tally.labelled:,} labelled)    {rate(self._rate.value, 'images')}",
            ),
            (
                "latency",
                f"p50 {milliseconds(latency.percentile(0.5))}    p99 {milliseconds(latency.percentile(0.99))}",
            ),
            ("model", f"version {self.version} ({_running(start)})    swaps {tally.swaps}"),
            *canary,
            ("stream", self._stream()),
            ("commits", self._commits(start)),
            ("dead letters", letters),
        ]
        parts: list[RenderableType] = [facts(rows)]
        if start.online:
            parts += [Rule("learner", style="dim", align="left"), facts(self.panel.rows())]
        parts += [Rule(style="dim"), self._log.render(4 - len(canary))]
        title = f"{name} --online" if start.online else name
        return frame(title, *parts, subtitle=f"{start.topic}  {duration(time.monotonic() - self._began)}")

    def lines(self, event: events.ServeEvent) -> Iterable[str]:
        """Lines for changes; with --print one line per image, otherwise status lines as often as `Pulse` allows."""
        if isinstance(event, events.ServeStarted):
            learner = ", learning online" if event.online else ""
            yield (
                f"serving version {event.version} ({_running(event)}, {event.threads} threads) "
                f"from {event.topic} as {event.group}, {event.delivery}{learner}"
            )
        elif isinstance(event, events.BatchServed) and self._print_images:
            yield from self._image_lines(event)
        yield from self._news(event)
        if isinstance(event, events.BatchServed | events.StreamStatus) and not self._print_images:
            yield from self._status_line()

    def _status_line(self) -> Iterator[str]:
        """A status line, if one is due."""
        tally, status = self.tally, self.status
        if not tally.handled and not status.lag:  # no messages yet
            return
        resting = not (status.lag or status.queue or status.paused)
        figures = (tally.predicted, tally.dead_lettered, tally.labelled, status.lag, self.version, tally.buffer_size)
        if self._pulse(figures, resting=resting):
            buffer = f"  buffer {tally.buffer_size:,}/{tally.buffer_capacity:,}" if tally.buffer_capacity else ""
            canary = f" canary {tally.canary}" if tally.canary else ""
            yield (
                f"predicted {tally.predicted:,}  {rate(self._rate.value, 'images')}  "
                f"accuracy {percent(tally.accuracy)} (recent {percent(tally.recent_accuracy)})  "
                f"p99 {milliseconds(tally.latencies.percentile(0.99))}  lag {_count(self.status.lag)}  "
                f"version {self.version}{canary}{buffer}"
            )

    def _served(self, event: events.BatchServed) -> None:
        self._rate.add(len(event.ids))
        for right in (event.predicted == event.labels)[event.labels >= 0].tolist():
            self._open_point.append(right)
            if len(self._open_point) == POINT:
                self.points.append(sum(self._open_point) / POINT)
                self._open_point.clear()

    def _stream(self) -> str:
        paused = ", paused" if self.status.paused else ""
        return f"lag {_count(self.status.lag)}    {self.status.queue:,} in flight{paused}"

    def _commits(self, start: events.ServeStarted) -> Text:
        undone = self.status.undone
        return Text.assemble(
            f"{self.status.commits:,} ({start.delivery})",
            (f"    {undone:,} aborted" if undone else "", "yellow"),
            f"    partitions {ranges(self.partitions)}",
        )

    def _news(self, event: events.ServeEvent) -> Iterator[str]:
        if isinstance(event, events.BatchServed):
            if event.dead_letters:
                kind, message = event.dead_letters[-1]
                more = f" (and {len(event.dead_letters) - 1} more)" if len(event.dead_letters) > 1 else ""
                yield f"dead letter: {kind}: {message}{more}"
        elif isinstance(event, events.Swapped):
            yield f"now serving version {event.new} (was {event.old})"
        elif isinstance(event, events.Assigned):
            yield f"partitions {ranges(event.partitions)} (rebalance {event.rebalances})"
        elif isinstance(event, events.SwapRefused):
            yield f"version {event.version} refused{' as canary' if event.canary else ''}: {event.reason}"
        elif isinstance(event, events.CanaryMoved):
            yield canary_line(event, self.tally, self.started.canary if self.started else 0.0)
        else:
            line = learn_line(event)
            if line is not None:
                yield line

    def _image_lines(self, event: events.BatchServed) -> Iterator[str]:
        classes = self.started.classes if self.started else ()
        for image_id, label, predicted, confidence in zip(
            event.ids, event.labels.tolist(), event.predicted.tolist(), event.confidence.tolist(), strict=True
        ):
            verdict = "unlabelled" if label < 0 else "correct" if label == predicted else f"wrong ({classes[label]})"
            buffer = f"  buffer {self.tally.buffer_size}/{self.tally.buffer_capacity}"
            yield (
                f"{image_id}  {classes[predicted]}  {confidence:.2f}  {verdict}"
                f"{buffer if self.started and self.started.online else ''}"
            )


def _running(start: events.ServeStarted) -> str:
    return f"{start.model}, {start.backend} {start.precision}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def serve_summary(result: events.ServeResult) -> str:
    """The human-readable result of `serve`."""
    versions = ", ".join(map(str, result.model_versions))
    text = (
        f"predicted {result.predicted:,} images in {duration(result.seconds)} "
        f"({rate(result.messages_per_second, 'messages')}), {result.dead_lettered:,} dead letters; "
        f"accuracy {percent(result.accuracy)} over {result.labelled:,} labelled; versions {versions}, "
        f"{result.swaps} swaps; latency p50 {milliseconds(result.latency_ms['p50'])}, "
        f"p99 {milliseconds(result.latency_ms['p99'])}"
    )
    if result.latency_left_out:
        text += f" ({result.latency_left_out:,} images without a usable timestamp left out)"
    if result.labels_unmatched:
        text += f"; {result.labels_unmatched:,} labels matched no image"
    if isinstance(result, events.OnlineServeResult):
        text += f"; {result.retrains} updates, {result.promotions} promoted, {result.rollbacks} rolled back"
    return text
