"""Events of `eval`, `eval --stream` and `registry compare`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluateResult:
    """JSON of `eval`: `confusion[i][j]` counts images of class i predicted as j."""

    version: int
    accuracy: float
    loss: float
    ece: float
    per_class: dict[str, float | None]
    confusion: list[list[int]] = field(repr=False)


@dataclass(frozen=True)
class Compared:
    """One version's metrics on the images of a Comparison; `metrics` are those in its manifest."""

    version: int
    model: str
    parameters: int
    accuracy: float
    loss: float
    ece: float
    per_class: dict[str, float | None]
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """JSON of `registry compare`: two versions evaluated on the same `images`.

    `only_first_right` and `only_second_right` count the images that only one of the two classifies correctly;
    `p_value` is that of the significance test on these counts.
    """

    images: int
    versions: list[Compared]
    only_first_right: int
    only_second_right: int
    p_value: float


@dataclass(frozen=True)
class ContestStarted:
    """A comparison of strategies on a stream begins; `rate` in images per second, None: updates take no stream time."""

    stream: str
    scenario: str
    version: int
    images: int
    strategies: tuple[str, ...]
    seeds: int
    rate: float | None


@dataclass(frozen=True)
class ContestProgress:
    """Progress of one strategy: images evaluated and prequential accuracy so far."""

    strategy: str
    seed: int
    images: int
    accuracy: float | None


@dataclass(frozen=True)
class Phase:
    """A part of a stream, images `start` to `end`, in which no drift begins or ends.

    `recovered_after` counts the images until the accuracy of the most recent ones came within two percentage points of
    the oracle's accuracy in this phase; None if it never did, or if no oracle ran.
    """

    name: str
    start: int
    end: int
    accuracy: float
    recovered_after: int | None = None


@dataclass(frozen=True)
class StrategyResult:
    """Result of one strategy on a stream.

    `final` is the accuracy after the stream on the test images, per concept. `detections` are the positions of drift
    signals; `detection_delays` has the delay in images after each change of the stream (None: no signal before the
    next change); `false_alarms` counts signals that follow no change. `seconds` is the CPU time of learning. `curve` is
    the accuracy over the last 200 images, sampled every 25 images.
    """

    strategy: str
    seed: int
    prequential_accuracy: float
    recovered_share: float | None
    phases: list[Phase]
    final: dict[str, float]
    detections: list[int]
    detection_delays: list[int | None]
    false_alarms: int
    updates: int
    promotions: int
    rollbacks: int
    seconds: float
    curve: list[float] = field(repr=False)


@dataclass(frozen=True)
class StreamResult:
    """JSON of `eval --stream`; `online_strategy` is the value of online.strategy."""

    stream: str
    scenario: str
    version: int
    images: int
    rate: float | None
    online_strategy: str
    results: list[StrategyResult]


ContestEvent = ContestStarted | ContestProgress | StrategyResult | StreamResult
