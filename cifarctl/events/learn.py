"""Events of the learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cifarctl.events.notice import Notice, Waiting


@dataclass(frozen=True)
class LearnerStarted:
    """The learner starts from `version`; its replay buffer holds `size` images from an earlier run."""

    pid: int
    version: int
    strategy: str
    size: int
    capacity: int


@dataclass(frozen=True)
class Shadow:
    """A model that predicts in shadow and is compared with the champion on the same labelled images.

    It is the challenger (`version` None) or the previous champion. It replaces the champion when `evidence`, an
    e-value, reaches `wanted`. `accuracy` is its own accuracy, `served` the champion's.
    """

    version: int | None
    images: int
    accuracy: float | None
    served: float | None
    evidence: float
    wanted: float


@dataclass(frozen=True)
class ServedRecord:
    """Accuracy of a version's published predictions over its last `labelled` images (at most 500)."""

    version: int
    labelled: int
    accuracy: float


@dataclass(frozen=True)
class LearnerStatus:
    """State of the learner; `accuracy` is the prequential accuracy over recent labelled images.

    `waiting` counts images without a label so far, `labels_unmatched` labels without an image so far. `served` lists
    the versions that made recent predictions. `lag` is the consumer lag in messages (None: unknown).
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
    """A drift signal after `at` images; the detector estimates that the change began `since` images earlier.

    `error_before` and `error_after` are the prequential errors around the change, None if it was detected without
    labels.
    """

    at: int
    detector: str
    since: int
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class RateChanged:
    """The learning rate of updates changed."""

    old: float
    new: float
    reason: str


@dataclass(frozen=True)
class RetrainStarted:
    """The training of a challenger begins."""

    examples: int
    trigger: str
    strategy: str
    learning_rate: float


Outcome = Literal["promoted", "rejected", "not_enough_data"]


@dataclass(frozen=True)
class RetrainResult:
    """JSON of `retrain`; `champion` and `challenger` hold their version and accuracies.

    `update` is true if the challenger is the next snapshot of a lineage that has already won its trial.
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
    """The alias moved back from `old` to the previous version `new`, which was better on the live stream."""

    old: int
    new: int
    reason: str


@dataclass(frozen=True)
class ChampionChanged:
    """Another process moved the alias; the learner continues from version `new`."""

    old: int
    new: int


@dataclass(frozen=True)
class LearnerDown:
    """The learner process ended or hung; it restarts after `delay` seconds (None: it does not restart)."""

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
