"""The stream predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cifarctl.events.learn import LearnerDown, LearnEvent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ServeStarted:
    """Loaded and subscribed."""

    topic: str
    group: str
    version: int
    model: str
    classes: tuple[str, ...]
    backend: str
    precision: str
    threads: int
    delivery: str
    online: bool
    canary: float = 0.0  # share of ids


@dataclass(frozen=True)
class BatchServed:
    """What a version answered of a micro-batch, committed; arrays of (B,): `labels` -1 = unlabelled.

    `latency_ms` is from produced to predicted by the clocks of two machines, so it may be negative or years; it is NaN
    where an image has no timestamp. `seconds` passed from its reading to its handing over. `trial` numbers the canary's
    trial that was on, 0 = none: the canary and the production version answer a part each.
    """

    version: int
    ids: Sequence[str]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    latency_ms: NDArray[np.float64]
    dead_letters: Sequence[tuple[str, str]]
    seconds: float
    trial: int = 0


@dataclass(frozen=True)
class Assigned:
    """The group has decided anew: the partitions of the images topic that this process reads."""

    partitions: tuple[int, ...]
    rebalances: int


@dataclass(frozen=True)
class StreamStatus:
    """Where the stream stands: messages still to be read (None: not known) and answers not acknowledged yet.

    `commits` counts those so far, `undone` the times that answers were given up and their images read again.
    `labels_unmatched` counts labels of the labels topic that belong to no image answered by this process, so far.
    """

    lag: int | None
    queue: int
    commits: int
    undone: int
    paused: bool
    labels_unmatched: int = 0


@dataclass(frozen=True)
class LabelsMatched:
    """Labels that came later, or before, met the predictions of their images; arrays of (M,).

    `versions` have predicted them, while the trials of these numbers were on.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    versions: NDArray[np.int64]
    trials: NDArray[np.int64]


@dataclass(frozen=True)
class Swapped:
    """The running predictor took another version, between two batches: an architecture, and what it is run by."""

    old: int
    new: int
    model: str | None = field(default=None, compare=False)
    backend: str | None = field(default=None, compare=False)
    precision: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SwapRefused:
    """A version that the alias names failed its checks; the old one goes on, and instead of a `canary` none does."""

    version: int
    reason: str
    canary: bool = False


@dataclass(frozen=True)
class CanaryMoved:
    """Another version answers the canary's share of the ids; `old` None: the trial begins, `new` None: it is over."""

    old: int | None
    new: int | None
    production: int
    trial: int


@dataclass(frozen=True)
class ServeResult:
    """JSON of `serve`; `seconds` from the first message read to the last one answered.

    `model_versions` are those that production has named; `by_version` says of each version that has answered, canaries
    too, how many images it `predicted`, how many of these are `labelled`, and its `accuracy` on them.
    `latency_left_out` counts the images whose timestamps tell no latency; `labels_unmatched` is as in StreamStatus.
    """

    predicted: int
    dead_lettered: int
    labelled: int
    accuracy: float | None
    seconds: float
    messages_per_second: float
    latency_ms: dict[str, float | None]
    model_versions: list[int]
    swaps: int
    by_version: list[dict[str, Any]]
    latency_left_out: int = field(default=0, kw_only=True)
    labels_unmatched: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class OnlineServeResult(ServeResult):
    """JSON of `serve --online`."""

    buffer: dict[str, int]
    retrains: int
    promotions: int
    rollbacks: int


ServeEvent = (
    ServeStarted
    | BatchServed
    | LabelsMatched
    | Assigned
    | StreamStatus
    | Swapped
    | SwapRefused
    | CanaryMoved
    | ServeResult
    | LearnerDown
    | LearnEvent
)
