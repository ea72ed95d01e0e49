"""Trying again for a limited time."""

from __future__ import annotations

import pytest

from cifarctl.stream import patience
from cifarctl.stream.connection import RETRY_S
from cifarctl.stream.patience import Patience


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def test_there_are_as_many_tries_as_the_time_allows(clock: Clock) -> None:
    trying, tries = Patience(1.0), 1
    while trying.again(0.25):
        tries += 1
    assert tries == 5
    assert (trying.left_s, clock.now) == (0.0, 101.0)


def test_the_time_that_is_left_limits_a_single_call(clock: Clock) -> None:
    trying = Patience(1.0)
    assert trying.left_s == 1.0
    assert trying.again()
    assert trying.left_s == pytest.approx(1.0 - RETRY_S)


def test_without_time_there_is_one_try_and_no_pause(clock: Clock) -> None:
    assert not Patience(0.0).again()
    assert clock.now == 100.0
