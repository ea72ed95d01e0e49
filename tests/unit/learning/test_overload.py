"""What a learner does where more comes than it can learn from, and what keeps it within its share of the processor."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.learning.cpu_budget import OWED_S, SAVED_S, CpuBudget
from cifarctl.learning.load_shedding import PATIENCE_S, SAMPLE, SPARSEST, TOLD_S, LoadShedding

ENOUGH = 100
IDS = [f"run-{number}" for number in range(4000)]


def told(overload: LoadShedding, lags: Sequence[int | None], start: float = 0.0) -> list[str]:
    """What it says of these lags, one after each look."""
    return [
        notice.message
        for number, lag in enumerate(lags)
        for notice in overload.update(lag, start + number * PATIENCE_S)
    ]


def test_a_lag_makes_updates_wait_until_it_is_gone() -> None:
    overload = LoadShedding(ENOUGH)
    assert told(overload, [ENOUGH]) == []
    assert not overload.behind
    assert told(overload, [ENOUGH + 1, 2 * ENOUGH]) == []  # as much as may come during an update
    assert overload.behind
    (notice,) = told(overload, [2 * ENOUGH + 1])
    assert notice == "201 messages have not been learned from: updates wait until they are seen"
    told(overload, [ENOUGH // 2 + 1])
    assert overload.behind
    told(overload, [ENOUGH // 2])
    assert not overload.behind


@given(lag=st.integers(ENOUGH + 1, 20 * ENOUGH), read=st.integers(1, 3 * ENOUGH), known=st.booleans())
def test_no_update_waits_for_what_comes_meanwhile(lag: int, read: int, known: bool) -> None:
    """A stream that is just as fast as the learner sees it: the lag stays, and updates are made all the same."""
    overload = LoadShedding(ENOUGH)
    if not known:
        list(overload.update(None, 0.0))
    for _ in range(3):
        seen = 0
        while not seen or overload.behind:
            list(overload.update(lag, 0.0, read))
            assert overload.behind
            seen += read
            list(overload.update(lag, 0.0))
        assert lag + read <= seen < lag + 2 * read


def test_while_the_lag_is_not_known_updates_wait() -> None:
    overload, found = LoadShedding(ENOUGH), []
    for lag in (None, 0):
        assert told(overload, [lag]) == []
        found.append(overload.behind)
    assert found == [True, False]


def test_a_lag_that_comes_and_goes_is_told_of_once_in_a_while() -> None:
    overload = LoadShedding(ENOUGH)
    looks = [3 * ENOUGH, 0] * 10
    assert len(told(overload, looks)) == -(-len(looks) * PATIENCE_S // TOLD_S)


def test_a_backlog_that_shrinks_is_learned_from_whole() -> None:
    overload = LoadShedding(ENOUGH)
    told(overload, [100_000 - 1000 * number for number in range(100)])
    assert overload.every == 1


def test_a_lag_that_grows_makes_a_sample_and_is_sampled_less_when_it_is_gone() -> None:
    overload = LoadShedding(ENOUGH)
    large = SAMPLE * ENOUGH
    told(overload, [large - 1, large])
    assert overload.every == 1
    told(overload, [large + 1, large + 2, large + 1], start=1000)
    assert overload.every == 4
    assert told(overload, [ENOUGH, ENOUGH, ENOUGH], start=2000) == [
        "100 messages have not been learned from: the learner learns from one of 2 images",
        "100 messages have not been learned from: the learner learns from every image again",
    ]
    told(overload, [large + number for number in range(1, 30)], start=3000)
    assert overload.every == SPARSEST


def test_a_lag_that_vanishes_between_updates_is_not_overload() -> None:
    overload, large = LoadShedding(ENOUGH), 2 * SAMPLE * ENOUGH
    for look in range(20):
        for moment, lag in ((0.0, large + look), (0.5, 0)):
            list(overload.update(lag, (look + moment) * PATIENCE_S))
    assert overload.every == 1


@given(st.sampled_from([2**power for power in range(1, 8)]))
def test_a_sample_is_a_part_of_the_larger_ones(every: int) -> None:
    smaller, larger = LoadShedding(ENOUGH), LoadShedding(ENOUGH)
    smaller.every, larger.every = every, every // 2
    chosen = set(filter(smaller.takes, IDS))
    assert chosen <= set(filter(larger.takes, IDS))
    assert 0.5 < len(chosen) / (len(IDS) / every) < 1.5


@given(st.floats(0.05, 2.0), st.lists(st.floats(0.0, OWED_S), min_size=1, max_size=50))
def test_a_budget_is_kept(share: float, works: list[float]) -> None:
    """Over any time that begins at rest: the share of it, and what could be saved before."""
    now = used = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    budget = CpuBudget(share, clock=lambda: now, used=lambda: used, sleep=sleep)
    for work in works:
        now, used = now + work, used + work
        budget.keep()
        assert used <= share * now + SAVED_S + 1e-6


def test_what_was_not_asked_for_in_time_is_forgiven() -> None:
    """A reader of a stream that has computed for an hour is not put to sleep for hours."""
    now, slept, used = 0.0, 0.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    budget = CpuBudget(0.1, clock=lambda: now, used=lambda: used, sleep=sleep)
    now = used = 3600.0
    budget.keep()
    assert 0 < slept <= OWED_S / 0.1 + 1


def test_without_a_share_nobody_sleeps() -> None:
    CpuBudget(None, used=lambda: 1e9, sleep=lambda seconds: pytest.fail(f"slept for {seconds} s")).keep()


def test_who_stays_within_the_budget_never_sleeps() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        raise AssertionError(seconds)

    budget = CpuBudget(0.5, clock=lambda: now, used=lambda: now * 0.4, sleep=sleep)
    for _ in range(100):
        now += 1.0
        budget.keep()


def test_records_in_hand_delay_updates_but_are_not_lag() -> None:
    overload = LoadShedding(ENOUGH)
    large = SAMPLE * ENOUGH
    for number in range(4):
        assert list(overload.update(0, number * PATIENCE_S, large + number)) == []
        assert (overload.behind, overload.every) == (True, 1)
        assert list(overload.update(0, number * PATIENCE_S)) == []
        assert not overload.behind
