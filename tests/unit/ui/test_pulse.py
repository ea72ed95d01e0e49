"""When a log says again how things stand, and what its last line tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cifarctl import events
from cifarctl.ui.learn import RetrainView
from cifarctl.ui.pulse import Pulse
from cifarctl.ui.serve import ServeView

STATUS = events.StreamStatus(lag=0, queue=0, commits=1, undone=0, paused=False)
LEARNING = events.LearnerStatus(
    labelled=10,
    size=10,
    capacity=100,
    holdout=0,
    class_counts=(),
    accuracy=None,
    learning_rate=1e-3,
    drift="calm",
    until_update=90,
    lag=500,
)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(count: int) -> events.BatchServed:
    return events.BatchServed(
        version=1,
        ids=[f"{number}" for number in range(count)],
        labels=np.full(count, -1),
        predicted=np.zeros(count, dtype=np.int64),
        confidence=np.ones(count, dtype=np.float32),
        latency_ms=np.ones(count),
        dead_letters=[],
        seconds=0.1,
    )


def told(view: Any, *happened: Any) -> list[str]:
    lines: list[str] = []
    for event in happened:
        view.update(event)
        lines += view.lines(event)
    return lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the views that are made from now on."""
    clock = Clock()
    own = Pulse.__init__
    monkeypatch.setattr(Pulse, "__init__", lambda self, seconds: own(self, seconds, clock))
    return clock


def test_the_last_line_of_serve_tells_how_it_has_come_to_rest(clock: Clock) -> None:
    """Not the lag of the last change: that was told while there was one, and nothing comes any more."""
    view = ServeView()
    assert told(view, STATUS) == []  # nothing has come yet
    busy = told(view, replace(STATUS, lag=7934), batch(64))
    assert len(busy) == 1
    assert "lag 7,934" in busy[0]
    (rest,) = told(view, batch(64), *[STATUS] * 5)
    assert "predicted 128 " in rest
    assert "lag 0 " in rest
    clock.now += 3600
    assert told(view, *[STATUS] * 5) == []


def test_serve_is_heard_while_only_its_lag_grows(clock: Clock) -> None:
    """Images come and none is answered: the broker takes no answers."""
    view = ServeView()
    told(view, batch(64))
    lines = []
    for lag in range(0, 3000, 100):
        clock.now += 0.5
        lines += told(view, replace(STATUS, lag=lag, paused=True))
    assert 2 <= len(lines) <= 4
    assert any("lag 2," in line for line in lines)


def test_a_trickle_is_told_now_and_then_only(clock: Clock) -> None:
    view, lines = ServeView(), []
    for _ in range(30):  # an image a second, each at rest at once
        lines += told(view, batch(1), STATUS, STATUS)
        clock.now += 1
    assert 5 <= len(lines) <= 8


def test_the_last_line_of_a_learner_tells_how_it_has_come_to_rest(clock: Clock) -> None:
    view = RetrainView()
    (first,) = told(view, LEARNING)
    assert "lag 500 " in first
    done = replace(LEARNING, labelled=500, size=100, lag=0, waiting=3, labels_unmatched=7)
    (rest,) = told(view, *[done] * 5)
    for part in ("labelled 500 ", "lag 0 ", "3 images waiting for labels", "7 labels match no image"):
        assert part in rest
    clock.now += 3600
    assert told(view, *[done] * 5) == []


def test_a_learner_that_is_not_started_again_is_told_so() -> None:
    assert told(ServeView(), events.LearnerDown("refused", 1, None)) == ["learner down: refused; no further restart"]
