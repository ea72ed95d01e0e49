"""What the core loops yield: frozen facts, read alike by dashboards, log lines and JSON.

A flow ends with its result, whose fields are the command's JSON document (times in seconds, accuracies 0-1,
``None`` where nothing was labelled). Nothing here imports torch, so that a front end stays light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Notice:
    """Something that a person should know although the work goes on."""

    message: str


# --- train


@dataclass(frozen=True)
class TrainStarted:
    """The run's frame; `first_epoch` or `first_batch` is above 1 when a checkpoint is continued."""

    model: str
    parameters: int
    images: int
    epochs: int
    first_epoch: int
    first_batch: int
    batches: int
    precision: str
    device: str
    data: str


@dataclass(frozen=True)
class TrainProgress:
    """Where the run stands; `batch` of this epoch is done, `loss` is a running mean."""

    epoch: int
    batch: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over and its checkpoint is on disk.

    `validation_accuracy_tta` is that of answers averaged over variants of an image, where those are what the model
    answers and the epoch may be the last.
    """

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float
    images_per_second: float
    validation_accuracy_tta: float | None = None


@dataclass(frozen=True, eq=False)
class Mistake:
    """A test image (3, 32, 32) uint8 that a model got wrong, and how sure it was."""

    pixels: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True, eq=False)
class TrainReport:
    """What there is to draw of a training run: its epochs, and what its model does on the test images.

    `confusion[i][j]` counts images of class i predicted as j; `mistakes` are those it was surest of, the surest first.
    """

    epochs: Sequence[EpochDone]
    classes: tuple[str, ...]
    test_accuracy: float
    confusion: list[list[int]]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class TrainResult:
    """JSON of `train`.

    Accuracies are those of the network alone; those with ``tta`` of its answers averaged over variants of an image,
    where that is what the version gives.
    """

    version: int
    model: str
    epochs: int
    train_images: int
    validation_accuracy: float | None
    test_accuracy: float
    validation_accuracy_tta: float | None
    test_accuracy_tta: float | None
    target_reached: bool | None
    seconds: float
    images_per_second: float
    promoted: bool
    reason: str


# --- produce


@dataclass(frozen=True)
class ProduceStarted:
    """What is sent where; `count` None = until stopped, `rate` 0 = full speed."""

    topic: str
    images: int
    count: int | None
    rate: float
    format: str
    drift: str


@dataclass(frozen=True)
class ProduceProgress:
    """Acknowledged and failed images so far; `queued` still wait for their delivery report.

    The same of late labels, of which `labels_waiting` are not due yet.
    """

    sent: int
    failed: int
    queued: int
    seconds: float
    phase: str
    labels_sent: int = 0
    labels_failed: int = 0
    labels_waiting: int = 0


@dataclass(frozen=True)
class ProduceResult:
    """JSON of `produce`: images, in seconds from the first to the acknowledgement of the last; then late labels.

    `sent` are acknowledged, `failed` have not arrived; `unconfirmed` were given up on their way and may have arrived.
    """

    sent: int
    failed: int
    seconds: float
    messages_per_second: float
    labels_sent: int = 0
    labels_failed: int = 0
    unconfirmed: int = 0
    labels_unconfirmed: int = 0


# --- serve


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
class Waiting:
    """The broker does not answer; the work resumes by itself."""

    reason: str


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


# --- learn


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
    has the versions that have answered of late; `lag` counts messages still to be read (None: not known).
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


# --- evaluate


@dataclass(frozen=True)
class EvaluateResult:
    """JSON of `eval`: `confusion[i][j]` counts images of class i predicted as j."""

    version: int
    accuracy: float
    loss: float
    ece: float
    per_class: dict[str, float | None]
    confusion: list[list[int]] = field(repr=False)


# --- registry compare


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


# --- eval --stream


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


# --- verify-stream


@dataclass(frozen=True)
class VerifyProgress:
    """Records of a topic that have been read so far."""

    topic: str
    read: int


@dataclass(frozen=True)
class VerifyResult:
    """JSON of `verify-stream`: whether every input below the committed offsets was answered exactly once, in order.

    `examples` names a few of the places where that is not so, `notes` says what limits the comparison. Never exact:
    `mismatched` answers, whose source offset holds another message; `aged_out_unread` messages; partitions whose
    committed offset lies beyond the end (`beyond_end`) or is of another topic of that name (`other_topic`). No fault:
    inputs `skipped` on purpose by `serve --from` or `unread` yet; answers to inputs that have `aged_out` or were
    `compacted` away since; inputs whose answer may have been removed since, so that nothing is known (`unverifiable`).
    """

    topic: str
    group: str
    committed: dict[str, int]
    inputs: int
    predictions: int
    dead_letters: int
    missing: int
    duplicated: int
    beyond: int
    out_of_order: int
    exact: bool
    examples: list[str]
    mismatched: int = 0
    aged_out_unread: int = 0
    beyond_end: int = 0
    other_topic: int = 0
    skipped: int = 0
    unread: int = 0
    aged_out: int = 0
    compacted: int = 0
    unverifiable: int = 0
    notes: list[str] = field(default_factory=list)


# --- demo


@dataclass(frozen=True)
class DemoStage:
    """The demo enters a stage."""

    number: int
    stages: int
    title: str


@dataclass(frozen=True)
class DemoResult:
    """JSON of `demo`: accuracies before the drift, in its first 200 images, and over the last 1,000.

    `accuracy_left_alone` is what the first version gets on those last images.
    """

    data: str
    images: int
    drift: str
    accuracy_clean: float
    accuracy_after_drift: float
    accuracy_at_end: float
    accuracy_left_alone: float
    retrains: int
    promotions: int
    model_versions: list[int]
    latency_ms: dict[str, float | None]
    seconds: float
    registry: str


# --- doctor


@dataclass(frozen=True)
class Check:
    """One thing that `doctor` looked at; `finding` says what it found and, where it failed, what to do."""

    check: str
    ok: bool
    finding: str


TrainEvent = TrainStarted | TrainProgress | EpochDone | TrainResult | Notice
ProduceEvent = ProduceStarted | ProduceProgress | ProduceResult | Notice
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
VerifyEvent = VerifyProgress | VerifyResult
ContestEvent = ContestStarted | ContestProgress | StrategyResult | StreamResult
DemoEvent = TrainEvent | ServeEvent | DemoStage | DemoResult
Event = TrainEvent | ProduceEvent | ServeEvent | VerifyEvent | ContestEvent | DemoEvent
