"""How a learner stands, for dashboards and logs."""

from __future__ import annotations

import os

from cifarctl import events
from cifarctl.learning.lineage import Lineage
from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.schedule import UpdateSchedule
from cifarctl.learning.trial import Trial
from cifarctl.learning.watch import Watch
from cifarctl.online.buffer import ReplayBuffer


def started(champion: int, strategy: str, buffer: ReplayBuffer) -> events.LearnerStarted:
    """The initial state of a learner: its process, the champion, the strategy and the fill of the buffer."""
    return events.LearnerStarted(
        pid=os.getpid(), version=champion, strategy=strategy, size=len(buffer), capacity=buffer.capacity
    )


def not_enough(lineage: Lineage, examples: int, wanted: int) -> events.RetrainResult:
    """The result of an update that was asked for when too few labelled examples had come."""
    champion = {
        "version": lineage.version,
        "stream_accuracy": None,
        "validation_accuracy": float(lineage.judged.validation.mean()),
    }
    reason = f"{examples} labelled examples since the last update, {wanted} are wanted"
    return events.RetrainResult("not_enough_data", examples, champion, {}, [reason], 0.0)


def status(
    stream: ObservedStream, schedule: UpdateSchedule, learning_rate: float, shadow: events.Shadow | None
) -> events.LearnerStatus:
    """Fill of the buffer, prequential accuracy of the champion, and the comparison that is going on."""
    buffer, outcomes = stream.buffer, stream.concept.outcomes
    return events.LearnerStatus(
        labelled=buffer.labelled,
        size=len(buffer),
        capacity=buffer.capacity,
        holdout=len(buffer.holdout),
        class_counts=buffer.class_counts(),
        accuracy=sum(outcomes) / len(outcomes) if outcomes else None,
        learning_rate=learning_rate,
        drift="drift" if schedule.drifting else "calm",
        until_update=schedule.remaining,
        shadow=shadow,
    )


def shadow(lineage: Lineage, trial: Trial, watch: Watch | None) -> events.Shadow | None:
    """The comparison that is going on: a challenger on trial, else the version before on watch."""
    if not lineage.standing.following and lineage.challenger is not None:
        version, pairs, alpha = None, lineage.standing.pairs, trial.alpha
    elif watch is not None:
        version, pairs, alpha = watch.state.previous, watch.pairs, watch.alpha
    else:
        return None
    return events.Shadow(version, len(pairs), pairs.challenger, pairs.champion, pairs.evidence, 1 / alpha)
