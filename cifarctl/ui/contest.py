"""The dashboard and the tables of `eval --stream`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.ui.tables import headed
from cifarctl.ui.widgets import Every, bar, cell, duration, facts, frame, percent, sparkline

LOG_INTERVAL_S = 10.0


class ContestView:
    """Progress of the strategy that runs, and the results of those that have finished."""

    def __init__(self) -> None:
        self.started: events.ContestStarted | None = None
        self.progress: events.ContestProgress | None = None
        self.done: list[events.StrategyResult] = []
        self._began = time.monotonic()
        self._log = Every(LOG_INTERVAL_S)

    def update(self, event: events.ContestEvent) -> None:
        """Update the state from an event."""
        if isinstance(event, events.ContestStarted):
            self.started = event
        elif isinstance(event, events.ContestProgress):
            self.progress = event
        elif isinstance(event, events.StrategyResult):
            self.done.append(event)

    def render(self) -> RenderableType:
        """The current dashboard."""
        start, now = self.started, self.progress
        if start is None:
            return frame("cifarctl eval --stream", Text("loading images …"))
        rows: list[tuple[str, RenderableType]] = [
            ("stream", f"{start.stream}, {start.images:,} images{_pace(start.rate)}"),
            ("version", str(start.version)),
        ]
        rows += [
            (
                result.strategy,
                Text.assemble(percent(result.prequential_accuracy), "  ", sparkline(_thin(result.curve), 40)),
            )
            for result in self.done[-8:]
        ]
        if now is not None:
            what = f"{now.strategy}" + (f", seed {now.seed}" if start.seeds > 1 else "")
            part = Text.assemble(bar(now.images / start.images, 40), f"  {percent(now.accuracy)}")
            rows.append((what, part if now.accuracy is not None else "preparing …"))
        return frame("cifarctl eval --stream", facts(rows), subtitle=duration(time.monotonic() - self._began))

    def lines(self, event: events.ContestEvent) -> Iterable[str]:
        """A line at the start, one per strategy, and one every ten seconds."""
        if isinstance(event, events.ContestStarted):
            yield (
                f"version {event.version} on {event.stream}: {event.images:,} images, "
                f"{', '.join(event.strategies)}{_pace(event.rate)}"
            )
        elif isinstance(event, events.StrategyResult):
            yield (
                f"{event.strategy}, seed {event.seed}: prequential accuracy {percent(event.prequential_accuracy)}, "
                f"{event.updates} updates, {event.promotions} promotions, {event.seconds:.0f} s"
            )
        elif isinstance(event, events.ContestProgress) and event.accuracy is not None and self._log():
            yield f"{event.strategy}: {event.images:,} images, {percent(event.accuracy)}"


def contest_tables(result: events.StreamResult) -> RenderableType:
    """Results of the strategies: in total, by phase, by concept; with several seeds, mean ± standard deviation."""
    groups = _by_strategy(result.results)
    several = any(len(group) > 1 for group in groups.values())
    figures = "prequential", "recovered", "updates", "promoted", "rolled back", "CPU"
    total = headed("strategy", *figures, right=figures)
    for name, group in groups.items():
        total.row(
            name,
            _mean(group, lambda one: one.prequential_accuracy),
            _mean(group, lambda one: one.recovered_share),
            *(f"{statistics.fmean(getattr(one, part) for one in group):.4g}" for part in COUNTS),
            f"{statistics.fmean(one.seconds for one in group):.0f} s",
        )
    parts: list[RenderableType] = [
        cell(f"version {result.version} on {result.stream}, {result.images:,} images{_pace(result.rate)}"),
        total,
    ]
    if several:
        parts.append(Text("mean over the seeds ± standard deviation", style="dim"))
    phases = result.results[0].phases
    if len(phases) > 1:
        table = headed("images", "phase", *groups, right=list(groups))
        for index, phase in enumerate(phases):
            cells = [
                _mean(group, lambda one, index=index: one.phases[index].accuracy)  # type: ignore[misc]
                for group in groups.values()
            ]
            table.row(f"{phase.start:,}–{phase.end:,}", phase.name, *cells)
        parts += [Text("prequential accuracy by phase"), table]
    final = headed("concept", *groups, right=list(groups))
    for concept in result.results[0].final:
        cells = [
            _mean(group, lambda one, concept=concept: one.final[concept])  # type: ignore[misc]
            for group in groups.values()
        ]
        final.row(concept, *cells)
    parts += [Text("accuracy on test images after the stream, by concept"), final]
    return Group(*parts)


COUNTS = ("updates", "promotions", "rollbacks")


def _by_strategy(results: Sequence[events.StrategyResult]) -> dict[str, list[events.StrategyResult]]:
    groups: dict[str, list[events.StrategyResult]] = {}
    for one in results:
        groups.setdefault(one.strategy, []).append(one)
    return groups


def _mean(group: Sequence[events.StrategyResult], figure: Callable[[events.StrategyResult], float | None]) -> str:
    values = [value for one in group if (value := figure(one)) is not None]
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return percent(statistics.fmean(values)) + spread


def _thin(curve: Sequence[float], points: int = 40) -> list[float]:
    return [curve[index * len(curve) // points] for index in range(points)] if len(curve) > points else list(curve)


def _pace(rate: float | None) -> str:
    return "" if rate is None else f", {rate:g} images/s"
