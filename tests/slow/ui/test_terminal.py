"""Hostile text in every event of every view."""

from __future__ import annotations

from typing import Any

import pytest
from hostile import HOSTILE, clean, poisoned
from screens import LEARNING, ONLINE_STARTED, PRODUCING, SERVING, STAGES, TRAINING, AnyView, text_of

from cifarctl import events
from cifarctl.ui.contest import ContestView
from cifarctl.ui.demo import DemoView
from cifarctl.ui.learn import RetrainView
from cifarctl.ui.output import Output
from cifarctl.ui.produce import ProduceView
from cifarctl.ui.serve import ServeView
from cifarctl.ui.train import TrainView

FEW = [event for event in SERVING if len(getattr(event, "ids", ())) < 40]  # printing a million ids takes long
VIEWS: list[tuple[AnyView, list[Any]]] = [
    (
        ServeView(print_images=True),
        [ONLINE_STARTED, *FEW, *LEARNING],
    ),
    (RetrainView(), LEARNING),
    (ProduceView(), [events.ProduceStarted("t.images", 9, 50, 0.2, "raw", ""), *PRODUCING]),
    (TrainView(), TRAINING),
    (DemoView(), [*STAGES, ONLINE_STARTED, *LEARNING]),
    (ContestView(), [events.ContestStarted("s", "s", 1, 100, ("frozen",), 1, None)]),
]


@pytest.mark.parametrize(("view", "stream"), VIEWS, ids=lambda value: type(value).__name__)
def test_no_event_steers_the_terminal(view: AnyView, stream: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(dashboard=False)
    for event in poisoned(stream, HOSTILE):
        view.update(event)
        clean(text_of(view.render()))
        for line in view.lines(event):
            output.log(line)
            told = capsys.readouterr().out
            assert told.count("\n") == 1
            clean([told.removesuffix("\n")])
