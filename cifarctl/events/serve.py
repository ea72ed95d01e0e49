"""Events of `serve`."""

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
    """The model is loaded and the images topic is subscribed."""

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
    canary: float = 0.0  # fraction of ids


@dataclass(frozen=True)
class BatchServed:
    """A version's committed predictions of a micro-batch; all arrays (B,), `labels` -1 = unlabelled.

    `latency_ms` is the time from the image's timestamp to its prediction, measured by the clocks of two machines: it
    may be negative or far too large, and is NaN for an image without a timestamp. `seconds` is the time from reading
    the micro-batch to handing its predictions to the producer. `trial` is the number of the canary trial in progress
    (0 = none), in which the canary and the production version each answer a part of the ids.
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
    """After a rebalance: the partitions of the images topic that are assigned to this process."""

    partitions: tuple[int, ...]
    rebalances: int


@dataclass(frozen=True)
class StreamStatus:
    """State of the stream: consumer `lag` in messages (None: unknown), `queue` of predictions not acknowledged yet.

    `commits` counts commits so far, `undone` the times that predictions were discarded and their images read again.
    `labels_unmatched` counts labels of the labels topic without an image that this process has answered, so far.
    """

    lag: int | None
    queue: int
    commits: int
    undone: int
    paused: bool
    labels_unmatched: int = 0


@dataclass(frozen=True)
class LabelsMatched:
    """Labels of the labels topic, joined with the predictions of their images; arrays (M,).

    `versions` made the predictions; `trials` are the numbers of the canary trials then in progress (0 = none).
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    versions: NDArray[np.int64]
    trials: NDArray[np.int64]


@dataclass(frozen=True)
class Swapped:
    """The running predictor switched versions between two batches; `model` is the new version's architecture."""

    old: int
    new: int
    model: str | None = field(default=None, compare=False)
    backend: str | None = field(default=None, compare=False)
    precision: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SwapRefused:
    """The version that the alias names failed its checks.

    The old version continues to serve; a refused `canary` leaves the stream without a canary.
    """

    version: int
    reason: str
    canary: bool = False


@dataclass(frozen=True)
class CanaryMoved:
    """The canary version changed; `old` None: the trial begins, `new` None: it ends."""

    old: int | None
    new: int | None
    production: int
    trial: int


@dataclass(frozen=True)
class ServeResult:
    """JSON of `serve`; `seconds` from the first message read to the last one answered.

    `model_versions` are the production versions in order. `by_version` has, for each version that answered (canaries
    included), the images `predicted`, how many of them are `labelled`, and the `accuracy` on those.
    `latency_left_out` counts images whose timestamp gives no usable latency; `labels_unmatched` as in StreamStatus.
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
