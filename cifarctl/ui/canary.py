"""The canary's part of a dashboard: its record, and that of production over the same time."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.tally import Score, Tally, Trial
from cifarctl.ui.widgets import percent


def canary_rows(tally: Tally, production: int, share: float) -> list[tuple[str, RenderableType]]:
    """A row for each of the two; without a canary all that the production version has answered."""
    trial, version = tally.trial, tally.canary
    if trial is not None and version is not None:
        beside, canary = trial.production, Text(f"version {version}    {_record(trial.canary)}")
    else:
        beside = tally.scores.get(production, Score())
        last = f"{percent(share)} of the ids are for the next one" if trial is None else f"the last {_both(trial)}"
        canary = Text(f"none; {last}", style="dim")
    return [("production", f"version {production}    {_record(beside)}"), ("canary", canary)]


def canary_line(event: events.CanaryMoved, tally: Tally, share: float) -> str:
    """What a log says when a canary begins, changes or ends."""
    if event.old is None or tally.trial is None:
        return f"canary: version {event.new} answers {percent(share)} of the ids beside version {event.production}"
    if event.new is not None:
        return f"canary: version {event.new} (was {event.old}), {_both(tally.trial)}"
    end = "promoted" if event.old == event.production else "withdrawn"
    return f"canary: version {event.old} {end}, {_both(tally.trial)}"


def _record(score: Score) -> str:
    return f"{percent(score.accuracy)} of {score.labelled:,} labelled    {score.predicted:,} predicted"


def _both(trial: Trial) -> str:
    """Accuracy and labelled images of each, in a few words: a row or a log line must hold it."""
    return " against ".join(
        f"{percent(score.accuracy)} of {score.labelled:,}" for score in (trial.canary, trial.production)
    )
