"""A version on the test images, two versions side by side, strategies on a stream."""

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
    """A version's figures on the images of a Comparison; `metrics` are those of its manifest."""

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
    """JSON of `registry compare`: two versions on the same `images`, some of which only one of them gets right."""

    images: int
    versions: list[Compared]
    only_first_right: int
    only_second_right: int
    p_value: float


@dataclass(frozen=True)
class ContestStarted:
    """What will be compared on which stream; `rate` is in images a second, None: updates take no time."""

    stream: str
    scenario: str
    version: int
    images: int
    strategies: tuple[str, ...]
    seeds: int
    rate: float | None


@dataclass(frozen=True)
class ContestProgress:
    """How far one strategy has come, and its accuracy so far."""

    strategy: str
    seed: int
    images: int
    accuracy: float | None


@dataclass(frozen=True)
class Phase:
    """A stretch of a stream in which nothing begins or ends.

    `recovered_after` is how many images it took until the last ones were within two points of the oracle's accuracy
    in the phase; None where that never was, or no oracle ran.
    """

    name: str
    start: int
    end: int
    accuracy: float
    recovered_after: int | None = None


@dataclass(frozen=True)
class StrategyResult:
    """What came of one strategy on a stream.

    `final` has the accuracy on test images of each concept after the stream; `detections` are positions, with the delay
    after each change of the stream (None: not before the next one) and how many answer none; `seconds` is the
    CPU time of learning; `curve` the accuracy of the last 200 images, every 25.
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
    """JSON of `eval --stream`; `online_strategy` is what the learner made its challengers by."""

    stream: str
    scenario: str
    version: int
    images: int
    rate: float | None
    online_strategy: str
    results: list[StrategyResult]


ContestEvent = ContestStarted | ContestProgress | StrategyResult | StreamResult
