"""Reading stops while the broker takes answers slower than they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cifarctl.serving.backpressure import Backpressure
from cifarctl.stream.sink import MAX_PENDING


def test_reading_stops_above_the_mark_and_resumes_at_half_of_it() -> None:
    sink: Any = SimpleNamespace(busy=False, pending=0)
    backpressure = Backpressure(sink)
    engaged = []
    for sink.pending in (0, MAX_PENDING, MAX_PENDING + 1, MAX_PENDING, MAX_PENDING // 2 + 1, MAX_PENDING // 2, 0):
        engaged.append(backpressure.update())
        assert backpressure.engaged == engaged[-1]
    assert engaged == [False, False, True, True, True, False, False]


def test_reading_stops_during_a_commit() -> None:
    sink: Any = SimpleNamespace(busy=True, pending=0)
    backpressure = Backpressure(sink)
    assert backpressure.update()
    sink.busy = False
    assert not backpressure.update()
