"""Events of every kind, and views as text."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from rich.console import Console, RenderableType

from cifarctl import events
from cifarctl.flows.demo import STAGES as TITLES

WIDTH, HEIGHT = 80, 24
LONG = "a message that goes on and on, " * 20
MARKUP = "[bold]not bold[/bold] [/] [red"
CLASSES = ("aeroplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def text_of(renderable: RenderableType, width: int = WIDTH) -> list[str]:
    """The lines that a terminal without colours shows."""
    file = io.StringIO()
    console = Console(width=width, height=HEIGHT, color_system=None, file=file, legacy_windows=False)
    console.print(renderable)
    return file.getvalue().rstrip("\n").split("\n")


class AnyView(Protocol):
    def update(self, event: Any) -> None: ...
    def render(self) -> RenderableType: ...
    def lines(self, event: Any) -> Iterable[str]: ...


def fits(view: AnyView) -> str:
    lines = text_of(view.render())
    assert len(lines) <= HEIGHT - 1, "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH, "\n".join(lines)
    return "\n".join(lines)


def play(view: AnyView, stream: Iterable[Any]) -> str:
    """Feed the view, looking at it after every event; what it shows at the end."""
    shown = fits(view)
    for event in stream:
        view.update(event)
        for line in view.lines(event):
            assert "\n" not in line
        shown = fits(view)
    return shown


def batch(count: int = 100, right: int = 70, *, labelled: int | None = None, **changes: Any) -> events.BatchServed:
    known = count if labelled is None else labelled
    labels = np.where(np.arange(count) < known, 3, -1)
    values: dict[str, Any] = {
        "version": 1,
        "ids": [f"run-{number:08d}" for number in range(count)],
        "labels": labels.astype(np.int64),
        "predicted": np.where(np.arange(count) < right, 3, 5).astype(np.int64),
        "confidence": np.full(count, 0.876, dtype=np.float32),
        "latency_ms": np.linspace(1, 20, count),
        "dead_letters": [],
        "seconds": 0.01,
    }
    return events.BatchServed(**(values | changes))


SERVE_STARTED = events.ServeStarted(
    topic="cifar.images",
    group="cifarctl",
    version=7,
    model="net",
    classes=CLASSES,
    backend="onnxruntime",
    precision="float32",
    threads=2,
    delivery="exactly-once",
    online=False,
)
STREAM = events.StreamStatus(lag=12_345, queue=1_678, commits=4_321, undone=0, paused=False)
LATE = events.LabelsMatched(
    ids=[f"run-{number:08d}" for number in range(10)],
    labels=np.full(10, 3, dtype=np.int64),
    predicted=np.where(np.arange(10) < 4, 3, 5).astype(np.int64),
    versions=np.full(10, 7, dtype=np.int64),
    trials=np.zeros(10, dtype=np.int64),
)
ONLINE_STARTED = replace(SERVE_STARTED, online=True)
CANARY_STARTED = replace(ONLINE_STARTED, canary=0.1)
CANARY = [events.CanaryMoved(None, 8, 7, 1), events.CanaryMoved(8, 9, 7, 1), events.CanaryMoved(9, None, 9, 1)]
STATUS = events.LearnerStatus(
    labelled=1234,
    size=1500,
    capacity=2000,
    holdout=200,
    class_counts=(100, 200) + (150,) * 8,
    accuracy=0.7123,
    learning_rate=1e-3,
    drift="calm",
    until_update=321,
    served=(events.ServedRecord(2, 20, 0.6), events.ServedRecord(3, 480, 0.701)),
)
DRIFT = events.DriftDetected(at=5678, detector="adwin", since=64, error_before=0.25, error_after=0.61)
STARTED = events.RetrainStarted(examples=400, trigger="drift", strategy="replay", learning_rate=4e-3)
PROMOTED = events.RetrainResult(
    "promoted",
    400,
    {"version": 7, "stream_accuracy": 0.41, "validation_accuracy": 0.74},
    {"version": 8, "stream_accuracy": 0.66, "validation_accuracy": 0.73},
    ["66.0% against 41.0% held out", "validation accuracy 73.0%"],
    3.4,
)
REJECTED = replace(
    PROMOTED,
    outcome="rejected",
    challenger={"version": None, "stream_accuracy": 0.4, "validation_accuracy": 0.5},
    reasons=["40.0% against 41.0% held out", "validation accuracy 50.0%"],
)
NOT_ENOUGH = events.RetrainResult("not_enough_data", 3, {"version": 7}, {}, ["3 labelled examples"], 0.0)
LEARNING: list[Any] = [
    events.LearnerStarted(pid=4711, version=7, strategy="replay", size=10, capacity=2000),
    STATUS,
    DRIFT,
    events.RateChanged(1e-3, 4e-3, "drift"),
    replace(STATUS, drift="drift"),
    STARTED,
    PROMOTED,
    REJECTED,
    NOT_ENOUGH,
    events.RolledBack(8, 7, LONG),
    events.ChampionChanged(7, 9),
    events.LearnerDown(LONG, 3, 8.0),
    events.Waiting(LONG),
    events.Notice(LONG),
    events.Notice(MARKUP),
    replace(STATUS, class_counts=(), accuracy=None, size=0, labelled=0),
    replace(STATUS, waiting=10**9),
    replace(STARTED, trigger=LONG),
    replace(STATUS, waiting=10**7),
]
SERVING: list[Any] = [
    batch(),
    batch(0),
    batch(50, labelled=0),
    batch(30, dead_letters=[("BadImage", LONG), ("BadLabel", MARKUP)]),
    batch(10, latency_ms=np.array([])),
    batch(10, latency_ms=np.full(10, 5e7)),
    events.Swapped(7, 8),
    events.SwapRefused(9, LONG),
    events.SwapRefused(9, LONG, canary=True),
    *CANARY,
    batch(10**6, 10**6, version=10**6, trial=1),
    events.Waiting(LONG),
    events.Assigned((0, 1, 2, 5), 3),
    events.Assigned((), 4),
    events.Assigned(tuple(range(0, 2000, 2)), 5),
    STREAM,
    events.StreamStatus(lag=None, queue=0, commits=0, undone=0, paused=True),
    events.StreamStatus(lag=10**12, queue=10**6, commits=10**9, undone=10**6, paused=True),
    LATE,
]
PRODUCING: list[Any] = [
    events.ProduceProgress(10, 0, 3, 1.0, ""),
    events.ProduceProgress(10**7, 10**6, 10**6, 1e6, LONG),
    events.ProduceProgress(10**7, 10**6, 10**6, 1e6, MARKUP),
    events.ProduceProgress(10**7, 10**6, 10**6, 1e6, "", 10**9, 10**9, 10**9),
    events.ProduceProgress(10, 0, 3, 1.0, "", labels_sent=10**7, labels_failed=10**6, labels_waiting=10**7),
    events.Notice(LONG),
]
TRAIN_STARTED = events.TrainStarted(
    model="net",
    parameters=122_570,
    images=35_000,
    epochs=10,
    first_epoch=1,
    first_batch=1,
    batches=273,
    precision="bfloat16",
    device="cpu",
    data="cifar10",
)
TRAIN_RESULT = events.TrainResult(3, "net", 10, 35_000, 0.765, 0.771, None, None, None, 321.0, 1090.0, True, "better")
TRAINING: list[Any] = [
    events.TrainProgress(1, 100, 1.2345, 8e-3, 12_345.6, 123.0),
    events.EpochDone(1, 1.2, 0.612, 12.0, 12_345.6),
    events.TrainProgress(10, 273, 0.2, 1e-6, 0.5, float("inf")),
    events.EpochDone(10, 0.2, None, 1e5, 0.5),
    events.Notice(LONG),
    events.Notice(MARKUP),
    TRAIN_RESULT,
]
AVERAGED = events.EpochDone(1, 1.2, 0.612, 12.0, 12_345.6, validation_accuracy_tta=0.634)
STAGES = [events.DemoStage(number, len(TITLES), title) for number, title in enumerate(TITLES, 1)]

# --- pictures

EPOCHS = [events.EpochDone(1, 2.1, 0.3, 4.0, 900.0), events.EpochDone(2, 1.4, 0.5, 4.0, 900.0)]
MISTAKE = events.Mistake(np.zeros((3, 32, 32), dtype=np.uint8), 0, 1, 0.9)
