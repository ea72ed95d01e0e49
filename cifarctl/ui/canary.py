"""The canary's part of a dashboard: its results next to production's over the same time."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from cifarctl import events
from cifarctl.tally import Score, Tally, Trial
from cifarctl.ui.widgets import percent


def canary_rows(tally: Tally, production: int, share: float) -> list[tuple[str, RenderableType]]:
    """One row each for production and canary; without a canary, production's row covers all its predictions."""
    trial, version = tally.trial, tally.canary
    if trial is not None and version is not None:
        score, canary = trial.production, Text(f"version {version}    {_record(trial.canary)}")
    else:
        score = tally.scores.get(production, Score())
        last = f"the next one gets {percent(share)} of ids" if trial is None else f"the last one had {_both(trial)}"
        canary = Text(f"none; {last}", style="dim")
    return [("production", f"version {production}    {_record(score)}"), ("canary", canary)]


def canary_line(event: events.CanaryMoved, tally: Tally, share: float) -> str:
    """The log line when a canary begins, changes or ends."""
    if event.old is None or tally.trial is None:
        return f"canary: version {event.new} answers {percent(share)} of ids, version {event.production} the others"
    if event.new is not None:
        return f"canary: version {event.new} (was {event.old}), {_both(tally.trial)}"
    end = "promoted" if event.old == event.production else "withdrawn"
    return f"canary: version {event.old} {end}, {_both(tally.trial)}"


def _record(score: Score) -> str:
    return f"{percent(score.accuracy)} of {score.labelled:,} labelled    {score.predicted:,} predicted"


def _both(trial: Trial) -> str:
    """Accuracy and number of labelled images of both, short enough for a dashboard row."""
    return " vs ".join(f"{percent(score.accuracy)} of {score.labelled:,}" for score in (trial.canary, trial.production))
