"""Dashboards and log lines: they fit a terminal of 80 by 24, whatever happens, and say what matters."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console, RenderableType

from cifarctl import events
from cifarctl.flows.demo import STAGES as TITLES
from cifarctl.ui.demo import DemoView, demo_summary
from cifarctl.ui.learn import RetrainView, outcome
from cifarctl.ui.output import Output, to_json
from cifarctl.ui.plots import draw_confusion, training_pictures
from cifarctl.ui.produce import ProduceView, produce_summary
from cifarctl.ui.serve import ServeView, serve_summary
from cifarctl.ui.tables import (
    checks_table,
    config_table,
    evaluation,
    history_table,
    manifest_table,
    removed_table,
    verify_table,
    versions_table,
)
from cifarctl.ui.train import TrainView, train_summary
from cifarctl.ui.verify import VerifyView, verify_summary
from cifarctl.ui.widgets import Every, Log, Rate, bar, duration, milliseconds, percent, ranges, rate, sparkline

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


# --- events


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


# --- dashboards fit


def test_the_serving_dashboard_says_what_matters() -> None:
    view = ServeView()
    stream = [SERVE_STARTED, events.Assigned((0, 1, 2, 5), 1), batch(100, 70), batch(100, 90, labelled=0), STREAM]
    shown = play(view, [*stream, events.Swapped(7, 8, "mixture", "eager", "bfloat16")])
    for part in (
        "70.0 % recent",
        "70.0 % overall",
        "200 (100 labelled)",
        "version 8 (mixture, eager bfloat16)",
        "swaps 1",
        "lag 12,345    1,678 in flight",
        "partitions 0–2, 5 (rebalance 1)",
        "4,321 (exactly-once)    partitions 0–2, 5",
        "now serving version 8 (was 7)",
        "cifar.images",
    ):
        assert part in shown
    assert re.search(r"p50 \d+\.\d ms +p99 \d+\.\d ms", shown)
    assert re.search(r"dead letters +0", shown)
    assert any(block in shown for block in "▁▂▃▄▅▆▇█")
    for part in ("buffer", "aborted", "paused"):
        assert part not in shown


def test_what_the_stream_does_is_shown_to_the_last_letter() -> None:
    """The rows that an operator looks at in trouble are not cut off, at figures that do occur."""
    trouble = events.StreamStatus(lag=12_345_678, queue=20_001, commits=1_234_567, undone=89, paused=True)
    shown = play(ServeView(), [SERVE_STARTED, events.Assigned(tuple(range(12)), 7), trouble])
    rows = dict(re.findall(r"^│ (\w+) +(.*?) +│$", shown, re.M))
    assert rows["stream"] == "lag 12,345,678    20,001 in flight, paused"
    assert rows["commits"] == "1,234,567 (exactly-once)    89 aborted    partitions 0–11"


def test_the_lag_is_not_made_up() -> None:
    shown = play(ServeView(), [SERVE_STARTED])
    assert "lag –    0 in flight" in shown
    assert "partitions none" in shown
    assert "lag 0 " in play(ServeView(), [SERVE_STARTED, replace(STREAM, lag=0)])


def test_late_labels_count_for_the_accuracy() -> None:
    shown = play(ServeView(), [SERVE_STARTED, batch(10, labelled=0), LATE])
    assert "40.0 % overall" in shown
    assert "10 (10 labelled)" in shown


def test_recent_accuracy_leaves_overall_accuracy_behind() -> None:
    shown = play(ServeView(), [SERVE_STARTED, batch(800, 800), batch(200, 50)])
    assert "25.0 % recent" in shown
    assert "85.0 % overall" in shown


def test_the_online_dashboard_says_what_matters() -> None:
    view = ServeView()
    shown = play(view, [ONLINE_STARTED, STATUS])
    for part in (
        "cifarctl serve --online",
        "1,500 / 2,000",
        "75%  100–200 per class",
        "0 images for their labels",
        "none detected",
        "in 321 labelled images",
        "learning rate 1.0e-03",
        "none yet",
    ):
        assert part in shown
    assert "1,234 images for their labels" in play(view, [replace(STATUS, waiting=1234)])
    shown = play(view, [DRIFT, replace(STATUS, drift="drift"), STARTED])
    assert "DRIFT  error 25.0 % → 61.0 %, at image 5,678" in shown
    assert "retraining on 400 new (drift)" in shown
    shown = play(view, [PROMOTED, STATUS])
    assert "00:00 ago  promoted version 8: 66.0% against 41.0% held out" in shown
    assert "no drift" in shown
    shown = play(view, [batch(3, dead_letters=[("BadImage", "1,000 bytes are no image")])])
    assert re.search(r"dead letters +1", shown)
    assert "dead letter: BadImage: 1,000 bytes are no image" in shown
    assert "rejected: 40.0% against 41.0% held out" in play(view, [REJECTED])


def test_the_dashboard_shows_how_a_canary_does_and_production_beside_it() -> None:
    view = ServeView()

    def rows(*stream: Any) -> list[str]:
        return re.findall(r"│ (?:production|canary) +(.*?) +│", play(view, stream))

    assert rows(CANARY_STARTED, STATUS, batch(50, 20, version=7)) == [
        "version 7    40.0 % of 50 labelled    50 predicted",
        "none; the next one gets 10.0 % of ids",
    ]
    side_by_side = [batch(90, 45, version=7, trial=1), batch(10, 6, version=8, labelled=0, trial=1)]
    late = replace(LATE, versions=np.full(10, 8), trials=np.repeat([0, 1], [2, 8]))  # two of them from before
    assert rows(CANARY[0], *side_by_side, late) == [
        "version 7    50.0 % of 90 labelled    90 predicted",
        "version 8    25.0 % of 8 labelled    10 predicted",
    ]
    assert rows(CANARY[1], batch(12, 8, version=9, trial=1)) == [
        "version 7    50.0 % of 90 labelled    90 predicted",
        "version 9    50.0 % of 20 labelled    22 predicted",
    ]
    assert rows(events.Swapped(7, 9), CANARY[2]) == [
        "version 9    66.7 % of 12 labelled    12 predicted",
        "none; the last one had 50.0 % of 20 vs 50.0 % of 90",
    ]
    assert rows(events.CanaryMoved(None, 10, 9, 2)) == [
        "version 9    – of 0 labelled    0 predicted",
        "version 10    – of 0 labelled    0 predicted",
    ]
    assert "canary" not in play(ServeView(), [ONLINE_STARTED, STATUS, batch()])


def test_the_log_says_how_a_canary_has_done() -> None:
    view = ServeView()
    lines = []
    for event in [
        CANARY_STARTED,
        CANARY[0],
        batch(9, 6, trial=1, version=7),
        batch(4, 3, trial=1, version=8),
        *CANARY[1:],
    ]:
        view.update(event)
        lines += [line for line in view.lines(event) if line.startswith("canary")]
    assert lines == [
        "canary: version 8 answers 10.0 % of ids, version 7 the others",
        "canary: version 9 (was 8), 75.0 % of 4 vs 66.7 % of 9",
        "canary: version 9 promoted, 75.0 % of 4 vs 66.7 % of 9",
    ]


def test_a_learner_that_is_down_is_told_and_so_is_its_return() -> None:
    view = ServeView()
    shown = play(view, [ONLINE_STARTED, events.LearnerDown("killed by signal 9", 2, 2.0)])
    assert "killed by signal 9; restarting in 2 s (restart 2)" in shown
    learner_row = [line for line in play(view, [STATUS]).split("\n") if "buffer" in line]
    assert learner_row


def test_before_anything_has_happened() -> None:
    for view in (ServeView(), RetrainView(), ProduceView(), TrainView(), DemoView(), VerifyView()):
        assert fits(view)


def test_the_retrain_dashboard_says_what_matters() -> None:
    shown = play(RetrainView(), [LEARNING[0], STATUS, DRIFT, STARTED, PROMOTED, STATUS])
    for part in ("1,234 seen", "prequential accuracy 71.2 %", "1,500 / 2,000", "error 25.0 % → 61.0 %", "version 8"):
        assert part in shown


def test_the_producing_dashboard_says_what_matters() -> None:
    started = events.ProduceStarted("cifar.images", 10_000, 500, 50.0, "json", "invert@100-200")
    shown = play(
        ProduceView(),
        [started, events.ProduceProgress(100, 0, 3, 2.0, ""), events.ProduceProgress(250, 2, 4, 5.0, "invert")],
    )
    for part in ("cifar.images (json)", "250 of 500", "target 50/s", "invert", "images now: invert", "00:05"):
        assert part in shown
    assert re.search(r"failed +2", shown)
    assert re.search(r"in flight +4", shown)
    assert "labels" not in shown


def test_the_producing_dashboard_tells_of_late_labels() -> None:
    started = events.ProduceStarted("cifar.images", 10_000, None, 50.0, "raw", "")
    progress = events.ProduceProgress(250, 0, 4, 5.0, "", labels_sent=1_150, labels_failed=2, labels_waiting=98)
    shown = play(ProduceView(), [started, progress])
    assert re.search(r"labels +1,150 sent, 98 pending, 2 failed", shown)


def test_the_verifying_dashboard_says_how_far_it_is() -> None:
    view = VerifyView()
    shown = play(view, [events.VerifyProgress("cifar.images", 20_000), events.VerifyProgress("cifar.images", 40_000)])
    assert re.search(r" images +40,000 read", shown)
    assert "20,000" not in shown
    shown = play(view, [events.VerifyProgress("cifar.dead-letters", 7)])
    assert re.search(r" images +40,000 read", shown)
    assert re.search(r" dead-letters +7 read", shown)


steps = st.builds(events.VerifyProgress, st.sampled_from(["cifar.images", "t" * 249, MARKUP]), st.integers(0, 10**15))


@given(st.lists(steps, max_size=10))
@settings(max_examples=25)
def test_the_verifying_dashboard_fits_whatever_happens(stream: list[Any]) -> None:
    play(VerifyView(), stream)


def test_the_training_dashboard_says_what_matters() -> None:
    assert "61.2 % (63.4 % with TTA)" in play(TrainView(), [TRAIN_STARTED, AVERAGED])
    shown = play(TrainView(), [TRAIN_STARTED, *TRAINING[:2]])
    for part in (
        "net, 122,570 parameters, bfloat16 on cpu",
        "35,000 of cifar10",
        "1 of 10, batch 100 of 273",
        "1.2345",
        "12,346 images/s",
        "02:03",
        "61.2 %",
        "4%",
    ):
        assert part in shown


def test_the_demo_shows_its_stage_above_what_is_at_work() -> None:
    view = DemoView()
    assert f"1/{len(TITLES)}" in play(view, [STAGES[0]])
    assert "cifarctl train" in play(view, [TRAIN_STARTED, *TRAINING])
    assert "cifarctl serve --online" in play(view, [STAGES[1], ONLINE_STARTED, STATUS, batch()])
    assert TITLES[3] in play(view, STAGES[2:4])


streams = st.lists(st.sampled_from([*SERVING, *LEARNING, SERVE_STARTED, ONLINE_STARTED, CANARY_STARTED]), max_size=30)


@given(stream=streams, print_images=st.booleans())
@settings(max_examples=40)
@pytest.mark.slow
def test_the_serving_dashboard_fits_whatever_happens(stream: list[Any], print_images: bool) -> None:
    play(ServeView(print_images=print_images), [SERVE_STARTED, *stream])


@given(st.lists(st.sampled_from(LEARNING), max_size=30))
@settings(max_examples=25)
def test_the_retrain_dashboard_fits_whatever_happens(stream: list[Any]) -> None:
    play(RetrainView(), stream)


@given(
    st.sampled_from([None, 3, 10**9]),
    st.sampled_from([0.0, 0.2, 1e6]),
    st.lists(st.sampled_from(PRODUCING), max_size=20),
)
@settings(max_examples=25)
def test_the_producing_dashboard_fits_whatever_happens(count: int | None, pace: float, stream: list[Any]) -> None:
    play(ProduceView(), [events.ProduceStarted("t" * 200, 10_000, count, pace, "raw", LONG), *stream])


@given(st.lists(st.sampled_from(TRAINING), max_size=30), st.booleans())
@settings(max_examples=25)
def test_the_training_dashboard_fits_whatever_happens(stream: list[Any], named_long: bool) -> None:
    started = replace(TRAIN_STARTED, model="m" * 100, data=LONG, device="cuda:1") if named_long else TRAIN_STARTED
    play(TrainView(), [started, *stream])


@given(st.lists(st.sampled_from([*STAGES, *TRAINING, *SERVING, *LEARNING, TRAIN_STARTED, CANARY_STARTED]), max_size=30))
@example([*STAGES[:1], CANARY_STARTED, STATUS])
@settings(max_examples=40)
def test_the_demo_dashboard_fits_whatever_happens(stream: list[Any]) -> None:
    play(DemoView(), stream)


def test_a_dashboard_keeps_its_height_while_its_figures_change() -> None:
    """Nothing jumps: once all parts are there, the panel stays as high as it is."""
    view = ServeView()
    play(view, [CANARY_STARTED, STATUS, batch()])
    heights = set()
    for event in [*SERVING, DRIFT, STARTED, PROMOTED, STATUS, replace(STATUS, drift="drift"), batch(), REJECTED]:
        view.update(event)
        heights.add(len(text_of(view.render())))
    assert len(heights) == 1


def test_what_people_wrote_is_no_markup() -> None:
    shown = play(ServeView(), [SERVE_STARTED, batch(1, dead_letters=[("BadImage", MARKUP)])])
    assert "[bold]not bold" in shown


# --- log lines


EXPECTED_LINES: list[tuple[AnyView, Any, str]] = [
    (
        ServeView(),
        SERVE_STARTED,
        "serving version 7 (net, onnxruntime float32, 2 threads) from cifar.images as cifarctl, exactly-once",
    ),
    (ServeView(), ONLINE_STARTED, "learning online"),
    (ServeView(), batch(100, 70), "accuracy 70.0 % (recent 70.0 %)"),
    (ServeView(), batch(2, dead_letters=[("A", "first"), ("B", "second")]), "dead letter: B: second (and 1 more)"),
    (ServeView(), events.Assigned((0, 1, 2, 5), 3), "partitions 0–2, 5 (rebalance 3)"),
    (ServeView(), events.Assigned((), 4), "partitions none (rebalance 4)"),
    (ServeView(), events.Swapped(7, 8), "now serving version 8 (was 7)"),
    (ServeView(), events.SwapRefused(9, "broken"), "version 9 refused: broken"),
    (ServeView(), events.SwapRefused(9, "broken", canary=True), "version 9 refused as canary: broken"),
    (ServeView(), CANARY[0], "canary: version 8 answers"),
    (ServeView(), LEARNING[0], "learner started from version 7 (replay, buffer 10/2000)"),
    (ServeView(), DRIFT, "drift: error 25.0 % → 61.0 %, detected by adwin at image 5,678, began about 64"),
    (ServeView(), events.RateChanged(1e-3, 4e-3, "drift"), "learning rate 1.0e-03 → 4.0e-03: drift"),
    (ServeView(), STARTED, "retraining (replay) on 400 new examples: drift"),
    (ServeView(), PROMOTED, "promoted version 8: 66.0% against 41.0% held out; validation accuracy 73.0% (3.4 s)"),
    (ServeView(), REJECTED, "rejected: 40.0% against 41.0% held out"),
    (ServeView(), NOT_ENOUGH, "not enough data: 3 labelled examples"),
    (ServeView(), events.RolledBack(8, 7, "worse"), "rolled back from version 8 to 7: worse"),
    (ServeView(), events.ChampionChanged(7, 9), "learner follows the alias from version 7 to 9"),
    (ServeView(), events.LearnerDown("killed", 1, 2.0), "learner down: killed; restarting in 2 s (restart 1)"),
    (ServeView(), events.Waiting("nobody there"), "waiting: nobody there"),
    (ServeView(), events.Notice("look"), "note: look"),
    (RetrainView(), STATUS, "accuracy 71.2 %  served: version 3 70.1 % of 480    version 2 60.0 % of 20  next update"),
    (RetrainView(), PROMOTED, "promoted version 8"),
    (ProduceView(), events.ProduceStarted("t.images", 9, None, 0.2, "raw", ""), "to t.images (raw) at 0.2/s, until"),
    (ProduceView(), events.ProduceStarted("t.images", 9, 50, 0, "raw", ""), "at unlimited rate, 50 messages"),
    (ProduceView(), PRODUCING[0], "sent 10  failed 0"),
    (ProduceView(), events.ProduceProgress(10, 0, 3, 1.0, "", 3, 0, 7), "labels 3 (+7)  images clean"),
    (ProduceView(), replace(PRODUCING[0], labels_sent=5, labels_waiting=4), "labels 5 (+4)"),
    (ProduceView(), events.Notice("look"), "note: look"),
    (VerifyView(), events.VerifyProgress("t.images", 20_000), "t.images: 20,000 read"),
    (TrainView(), TRAIN_STARTED, "training net (122,570 parameters) on 35,000 images of cifar10, 10 epochs"),
    (TrainView(), replace(TRAIN_STARTED, first_epoch=4), "resumed at epoch 4, batch 1"),
    (TrainView(), TRAINING[1], "loss 1.2000  validation accuracy 61.2 %  12.0 s  12,346 images/s"),
    (TrainView(), AVERAGED, "validation accuracy 61.2 % (63.4 % with TTA)  12.0 s"),
    (TrainView(), TRAINING[3], "epoch 10/10  loss 0.2000  100000.0 s"),
    (TrainView(), events.Notice("look"), "note: look"),
    (DemoView(), STAGES[0], f"--- 1/{len(TITLES)} {TITLES[0]}"),
    (DemoView(), TRAIN_STARTED, "training net"),
    (DemoView(), SERVE_STARTED, "serving version 7"),
    (DemoView(), PROMOTED, "promoted version 8"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("view", "event", "expected"),
    EXPECTED_LINES,
    ids=[f"{type(view).__name__} {type(event).__name__}" for view, event, _ in EXPECTED_LINES],
)
def test_what_the_log_says_of_an_event(view: AnyView, event: Any, expected: str) -> None:
    view.update(event)
    assert expected in "\n".join(view.lines(event))


def test_every_kind_of_event_is_taken_by_the_serving_view() -> None:
    """The views know all members of their unions, so that a new event cannot be forgotten in silence."""
    told = {type(event) for view, event, _ in EXPECTED_LINES if isinstance(view, ServeView)}
    # Figures on the dashboard; the summary at the end.
    silent = {events.LearnerStatus, events.LabelsMatched, events.StreamStatus, events.ServeResult}
    assert told | silent == set(events.ServeEvent.__args__)  # type: ignore[attr-defined]


def test_figures_are_logged_now_and_then_only() -> None:
    view = ServeView()
    logged = []
    for event in [SERVE_STARTED, *[batch()] * 50]:
        view.update(event)
        logged += list(view.lines(event))
    assert len(logged) == 2


def test_no_speed_is_told_before_there_is_one() -> None:
    for view, event in ((ServeView(), batch(100)), (ProduceView(), events.ProduceProgress(5, 0, 0, 0.1, ""))):
        view.update(event)
        shown = " ".join([*view.lines(event), *text_of(view.render())])
        assert "0.00" not in shown
        assert re.search(r"– (images|messages)/s", shown)


def test_every_image_is_printed_when_asked_for() -> None:
    view = ServeView(print_images=True)
    for event in (ONLINE_STARTED, STATUS):
        view.update(event)
    tally = events.LearnerStarted(1, 7, "replay", 5, 2000)
    view.update(tally)
    served = batch(3, right=1, labelled=2)
    view.update(served)
    assert list(view.lines(served)) == [
        "run-00000000  cat  0.88  correct  buffer 5/2000",
        "run-00000001  dog  0.88  wrong (cat)  buffer 5/2000",
        "run-00000002  dog  0.88  unlabelled  buffer 5/2000",
    ]


# --- summaries


def test_summaries() -> None:
    latency = {"p50": 1.5, "p95": 3.0, "p99": 12.345, "p999": None}
    serve = events.ServeResult(100, 2, 90, 0.7, 10.0, 10.2, latency, [7, 8], 1, [])
    text = serve_summary(serve)
    for part in ("100 images in 00:10", "2 dead letters", "70.0 % over 90", "versions 7, 8, 1 swaps", "p50 1.5 ms"):
        assert part in text
    online = events.OnlineServeResult(
        **vars(serve), buffer={"size": 1, "capacity": 2}, retrains=5, promotions=2, rollbacks=1
    )
    assert "5 updates, 2 promoted, 1 rolled back" in serve_summary(online)
    nothing = events.ServeResult(0, 0, 0, None, 0.0, 0.0, dict.fromkeys(latency), [7], 0, [])
    assert "accuracy – over 0" in serve_summary(nothing)
    assert "sent 10 messages in 00:05 (2.00 messages/s), 1 failed" in produce_summary(
        events.ProduceResult(10, 1, 5.0, 2.0)
    )
    assert "; 8 delayed labels sent, 2 failed" in produce_summary(events.ProduceResult(10, 0, 5.0, 2.0, 8, 2))
    assert "; 8 delayed labels sent, 1 failed" in produce_summary(events.ProduceResult(10, 0, 5.0, 2.0, 8, 1))
    assert train_summary(TRAIN_RESULT) == (
        "version 3: validation accuracy 76.5 %, test accuracy 77.1 % after 10 epochs in 05:21; "
        "promoted to production (better)"
    )
    averaged = replace(TRAIN_RESULT, validation_accuracy_tta=0.78, test_accuracy_tta=0.785)
    assert "validation accuracy 76.5 % (78.0 % with TTA), test accuracy 77.1 % (78.5 % with TTA)" in (
        train_summary(averaged)
    )
    assert "not promoted (worse)" in train_summary(
        replace(TRAIN_RESULT, promoted=False, reason="worse", validation_accuracy=None)
    )
    faults: dict[str, Any] = {"missing": 0, "duplicated": 0, "beyond": 0, "out_of_order": 0}
    verified = events.VerifyResult("t.images", "g", {"0": 12}, 12, 11, 1, **faults, exact=True, examples=[])
    assert verify_summary(verified) == (
        "12 inputs of t.images committed by g: 11 predictions and 1 dead letters; each exactly once, in order"
    )
    assert "NOT each exactly once" in verify_summary(replace(verified, missing=1, exact=False))
    assert outcome(REJECTED) == "rejected: 40.0% against 41.0% held out; validation accuracy 50.0%"
    demo = events.DemoResult(
        "synthetic", 6500, "invert", 0.7, 0.2, 0.6, 0.1, 12, 2, [1, 2, 3], latency, 200.0, "r/demo"
    )
    text = demo_summary(demo)
    for part in ("70.0 %", "20.0 %", "60.0 %", "10.0 %", "12 / 2", "1 → 2 → 3", "r/demo", "cifarctl serve --online"):
        assert part in text


# --- tables


def test_versions_fit_a_terminal_without_losing_a_letter() -> None:
    shown = text_of(
        versions_table(
            [
                {
                    "version": 123456,
                    "created": "2001-01-01T12:34:56.789",
                    "model": "net",
                    "parent": 123455,
                    "metrics": {"validation_accuracy": 0.7654, "test_accuracy": None},
                    "aliases": ["production"],
                }
            ],
            Path("/r"),
        )
    )
    text = "\n".join(shown)
    assert max(map(len, shown)) <= WIDTH
    for part in ("version", "model", "validation", "production", "123456", "2001-01-01 12:34 ", "76.5 %", "–"):
        assert part in text


def test_the_evaluation_fits_a_terminal() -> None:
    confusion = [[1000 if row == column else 999 for column in range(10)] for row in range(10)]
    result = events.EvaluateResult(7, 0.7654, 0.8, 0.05, dict.fromkeys(CLASSES, 0.5) | {"cat": None}, confusion)
    shown = text_of(evaluation(result))
    assert max(map(len, shown)) <= WIDTH
    text = "\n".join(shown)
    for part in ("version 7: accuracy 76.5 %", "automobile", "1000", "999", "–"):
        assert part in text


def test_tables_of_nothing() -> None:
    assert "cifarctl train" in str(versions_table([], Path("/r")))
    assert "no alias has been moved" in str(history_table([]))
    assert removed_table([], dry_run=False) == "nothing to remove"
    assert verify_table([], Path("/r")) == "the registry in /r is empty"


def test_tables_show_their_rows() -> None:
    from cifarctl.registry import Move
    from cifarctl.settings import explain

    move = {
        "time": "2026-01-01T00:00:00+00:00", "alias": "production", "from_version": 3, "to_version": 3,
        "who": "learner", "why": MARKUP, "generation": 2,
    }  # fmt: skip
    text = "\n".join(text_of(history_table([Move(action="reject", **move), Move(action="promote", **move)])))
    for part in ("reject", "3 → 3", "learner", "[bold]not"):
        assert part in text
    rows = [{"version": 1, "problem": None}, {"version": 2, "problem": "sha256 differs [red]"}]
    text = "\n".join(text_of(verify_table(rows, Path("/r"))))
    assert "ok" in text
    assert "sha256 differs [red]" in text
    checks = [{"check": "broker", "ok": False, "finding": LONG}, {"check": "data", "ok": True, "finding": "fine"}]
    shown = text_of(checks_table(checks))
    assert max(map(len, shown)) <= WIDTH
    assert "FAIL" in "\n".join(shown)
    removed = [{"version": 3, "path": "registry/versions/000003", "reason": "old", "bytes": 1234}]
    assert "would be removed" in "\n".join(text_of(removed_table(removed, dry_run=True)))
    text = "\n".join(text_of(config_table(explain({"train.epochs": "3"})), width=200))
    assert re.search(r"train\.epochs +3 +option", text)
    folder, manifest = Path("r/3"), {"version": 3, "canary": [1], "model": "net"}
    text = "\n".join(text_of(manifest_table(manifest, folder, [folder / "plots" / "confusion.png"]), width=200))
    assert "canary" not in text
    assert re.search(r"model +net", text)
    assert re.search(r"plots +plots/confusion\.png", text)


# --- widgets


def test_numbers() -> None:
    assert [percent(None), percent(0.0), percent(1.0), percent(0.12345)] == ["–", "0.0 %", "100.0 %", "12.3 %"]
    assert [duration(0), duration(61), duration(3661), duration(float("inf")), duration(-5)] == [
        "00:00", "01:01", "1:01:01", "–", "00:00",
    ]  # fmt: skip
    assert [milliseconds(None), milliseconds(1.25), milliseconds(2500)] == ["–", "1.2 ms", "2.5 s"]
    assert [rate(0.2, "messages"), rate(12_345, "images")] == ["0.20 messages/s", "12,345 images/s"]
    told = [rate(value, "images") for value in (None, 0.0, 0.0042)]
    assert told == ["– images/s", "0 images/s", "0.0042 images/s"]


@given(st.floats(allow_nan=False), st.integers(1, 80))
def test_a_bar_has_its_width(share: float, width: int) -> None:
    assert len(bar(share, width)) == width


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_the_numbers_and_no_others(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    assert (text == "none") == (not numbers)
    named: list[int] = []
    for part in text.split(", ") if numbers else []:
        first, _, last = part.partition("–")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


@given(st.lists(st.floats(-1, 2), max_size=80), st.integers(1, 60))
def test_a_sparkline_has_its_width_and_shows_the_latest(values: list[float], width: int) -> None:
    shown = sparkline(values, width).plain
    assert len(shown) == width
    assert len(shown.rstrip()) == min(len(values), width)
    if values and len(values) <= width:
        assert (shown[0] == "█") == (values[0] >= 7 / 8)


def test_a_log_keeps_its_height_and_the_latest_lines() -> None:
    log = Log(3, now=lambda: 0.0)
    assert len(text_of(log.render())) <= 3
    for number in range(5):
        log.add(f"line {number}")
    shown = text_of(log.render())
    assert [line.split("  ")[1].strip() for line in shown] == ["line 2", "line 3", "line 4"]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = 0.0
    found = Rate(window=5.0, now=lambda: now)
    assert found.value is None
    for _ in range(100):
        now += 1.0
        found.add(20)
    assert found.value == pytest.approx(20, rel=0.2)
    for _ in range(20):
        now += 1.0
        found.add(100)
    assert found.value == pytest.approx(100, rel=0.2)
    now += 995.0
    assert found.value is not None
    assert found.value < 1


def test_every_paces() -> None:
    now = 0.0
    every = Every(5.0, now=lambda: now)
    times = iter([0.0, 1.0, 4.9, 5.0, 9.0, 10.0])
    found = []
    while (now := next(times, -1.0)) >= 0:
        found.append(every())
    assert found == [True, False, False, True, False, True]


# --- output


class Silent:
    def update(self, event: Any) -> None:
        self.last = event

    def render(self) -> RenderableType:
        return "panel"

    def lines(self, event: Any) -> Iterator[str]:
        yield f"line [of] {event.message}"


def notices(*messages: str) -> Iterator[events.Notice]:
    return map(events.Notice, messages)


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    assert not output.live
    assert output.drain(notices("a", LONG), Silent()) == events.Notice(LONG)
    assert capsys.readouterr() == (f"line [of] a\nline [of] {LONG}\n", "")


def test_with_json_stdout_has_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.drain(notices("a"), Silent())
    output.say("for people")
    output.warn("mind this")
    output.result(TRAIN_RESULT, "a summary")
    out, err = capsys.readouterr()
    assert json.loads(out)["version"] == 3
    assert "line [of] a" in err
    assert "for people" in err
    assert "mind this" in err
    assert "a summary" not in out + err


def test_quiet_lets_warnings_and_results_through(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.drain(notices("a"), Silent())
    output.say("for people")
    output.warn("mind this")
    output.result(TRAIN_RESULT, "a summary")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "mind this\n"


def test_a_stream_is_closed_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def stream() -> Iterator[events.Notice]:
        try:
            for number in itertools.count():
                yield events.Notice(str(number))
        finally:
            closed.append(True)

    for _ in Output().show(stream(), Silent()):
        break
    else:
        raise AssertionError("it never ends")
    del _

    class Failing(Silent):
        def update(self, event: Any) -> None:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        Output().drain(stream(), Failing())
    assert len(closed) == 2
    capsys.readouterr()


def test_with_a_terminal_there_is_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    output = Output()
    assert output.live
    assert not Output(dashboard=False).live
    assert not Output(quiet=True).live
    output.drain(notices("a"), Silent())
    assert "panel" in terminal.getvalue()
    assert "line [of] a" not in terminal.getvalue()


def test_results_are_json_all_the_way_down() -> None:
    document = to_json([TRAIN_RESULT, {"a": 1}, ("b", None)])
    assert json.loads(json.dumps(document)) == [vars(TRAIN_RESULT), {"a": 1}, ["b", None]]


def test_every_event_is_frozen() -> None:
    for kind in events.Event.__args__:  # type: ignore[attr-defined]
        assert kind.__dataclass_params__.frozen, kind
        assert fields(kind)


# --- pictures

EPOCHS = [events.EpochDone(1, 2.1, 0.3, 4.0, 900.0), events.EpochDone(2, 1.4, 0.5, 4.0, 900.0)]
MISTAKE = events.Mistake(np.zeros((3, 32, 32), dtype=np.uint8), 0, 1, 0.9)


@pytest.mark.parametrize("epochs", [[], EPOCHS[:1], EPOCHS, [events.EpochDone(1, 2.1, None, 4.0, 900.0)]], ids=len)
@pytest.mark.parametrize("mistakes", [0, 1, 25])
def test_a_training_run_is_drawn_whatever_came_of_it(epochs: list[events.EpochDone], mistakes: int) -> None:
    report = events.TrainReport(epochs, ("cat", "dog"), 0.5, [[1, 1], [0, 0]], [MISTAKE] * mistakes)
    pictures = training_pictures(report)
    assert pictures.keys() == {"learning-curve.png", "confusion.png", "mistakes.png"}
    for picture in pictures.values():
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200


def test_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("$x^$", r"$\frac$", "\x1b[31m\n")
    confusion = [[1, 0, 0]] * 3
    path = tmp_path / "confusion.svg"
    draw_confusion(events.EvaluateResult(7, 0.5, 0.8, 0.05, dict.fromkeys(names, 0.5), confusion), path)
    drawn = path.read_text()
    for name in ("$x^$", r"$\frac$", r"\x1b[31m\n"):
        assert f"<!-- {name} -->" in drawn
    mistakes = [replace(MISTAKE, predicted=number, label=2) for number in range(2)]
    training_pictures(events.TrainReport(EPOCHS, names, 0.5, confusion, mistakes))
