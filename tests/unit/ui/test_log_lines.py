"""Log lines: what they say, and when."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from screens import (
    AVERAGED,
    CANARY,
    DRIFT,
    LEARNING,
    NOT_ENOUGH,
    ONLINE_STARTED,
    PRODUCING,
    PROMOTED,
    REJECTED,
    SERVE_STARTED,
    STAGES,
    STARTED,
    STATUS,
    TRAIN_STARTED,
    TRAINING,
    AnyView,
    batch,
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
