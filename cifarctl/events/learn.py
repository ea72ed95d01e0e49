"""The learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cifarctl.events.notice import Notice, Waiting


@dataclass(frozen=True)
class LearnerStarted:
    """A learner works from `version`; its buffer holds `size` examples from an earlier run."""

    pid: int
    version: int
    strategy: str
    size: int
    capacity: int


@dataclass(frozen=True)
class Shadow:
    """A model that predicts beside the one that serves, and is judged against it on the same labelled images.

    It is the challenger (`version` None) or the champion before; with `wanted` times the evidence it takes over.
    """

    version: int | None
    images: int
    accuracy: float | None
    served: float | None
    evidence: float
    wanted: float


@dataclass(frozen=True)
class ServedRecord:
    """What users got of a version: `accuracy` of its answers to the last `labelled` images (500 at most)."""

    version: int
    labelled: int
    accuracy: float


@dataclass(frozen=True)
class LearnerStatus:
    """Where the learner stands; `accuracy` is prequential over the recent labelled images.

    `waiting` counts images whose label has not come yet, `labels_unmatched` labels whose image has not come; `served`
    has the versions that have answered recently; `lag` counts messages still to be read (None: not known).
    """

    labelled: int
    size: int
    capacity: int
    holdout: int
    class_counts: tuple[int, ...]
    accuracy: float | None
    learning_rate: float
    drift: Literal["calm", "drift"]
    until_update: int
    waiting: int = 0
    shadow: Shadow | None = None
    served: tuple[ServedRecord, ...] = ()
    labels_unmatched: int = 0
    lag: int | None = None


@dataclass(frozen=True)
class DriftDetected:
    """Something has changed when `at` images had been seen; `since` images before that, by the detector's own estimate.

    The prequential error before and after it, None where no label tells.
    """

    at: int
    detector: str
    since: int
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class RateChanged:
    """The learning rate of updates moved."""

    old: float
    new: float
    reason: str


@dataclass(frozen=True)
class RetrainStarted:
    """A challenger is being trained."""

    examples: int
    trigger: str
    strategy: str
    learning_rate: float


Outcome = Literal["promoted", "rejected", "not_enough_data"]


@dataclass(frozen=True)
class RetrainResult:
    """JSON of `retrain`; `champion` and `challenger` hold version and accuracies.

    `update`: the challenger is the next snapshot of a lineage that has already won its trial.
    """

    outcome: Outcome
    examples: int
    champion: dict[str, Any]
    challenger: dict[str, Any]
    reasons: list[str]
    seconds: float
    update: bool = False


@dataclass(frozen=True)
class RolledBack:
    """The version promoted last did worse on the live stream than the one before, which serves again."""

    old: int
    new: int
    reason: str


@dataclass(frozen=True)
class ChampionChanged:
    """Somebody else moved the alias; the learner starts from that version now."""

    old: int
    new: int


@dataclass(frozen=True)
class LearnerDown:
    """The learner process ended or hung; it is started again after `delay` seconds, with None not at all."""

    reason: str
    restarts: int
    delay: float | None


LearnEvent = (
    LearnerStarted
    | LearnerStatus
    | DriftDetected
    | RateChanged
    | RetrainStarted
    | RetrainResult
    | RolledBack
    | ChampionChanged
    | Waiting
    | Notice
)
