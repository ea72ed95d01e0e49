"""Dashboards: they fit a terminal of 80 by 24, whatever happens, and say what matters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from screens import (
    AVERAGED,
    CANARY,
    CANARY_STARTED,
    DRIFT,
    LATE,
    LEARNING,
    LONG,
    MARKUP,
    ONLINE_STARTED,
    PRODUCING,
    PROMOTED,
    REJECTED,
    SERVE_STARTED,
    SERVING,
    STAGES,
    STARTED,
    STATUS,
    STREAM,
    TRAIN_STARTED,
    TRAINING,
    batch,
    fits,
    play,
    text_of,
)

from cifarctl import events
from cifarctl.flows.demo import STAGES as TITLES
from cifarctl.ui.demo import DemoView
from cifarctl.ui.learn import RetrainView
from cifarctl.ui.produce import ProduceView
from cifarctl.ui.serve import ServeView
from cifarctl.ui.train import TrainView
from cifarctl.ui.verify import VerifyView


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


def test_the_produce_dashboard_reports_late_labels() -> None:
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


def test_the_demo_shows_its_stage_above_the_running_command() -> None:
    view = DemoView()
    assert f"1/{len(TITLES)}" in play(view, [STAGES[0]])
    assert "cifarctl train" in play(view, [TRAIN_STARTED, *TRAINING])
    assert "cifarctl serve --online" in play(view, [STAGES[1], ONLINE_STARTED, STATUS, batch()])
    assert TITLES[3] in play(view, STAGES[2:4])


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


def test_text_from_users_is_not_parsed_as_markup() -> None:
    shown = play(ServeView(), [SERVE_STARTED, batch(1, dead_letters=[("BadImage", MARKUP)])])
    assert "[bold]not bold" in shown
