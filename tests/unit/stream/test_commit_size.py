"""Transactions on a slow broker: their size, and that every input is answered once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cifarctl.stream.commit_size import OLD, QUICK, SLOW, UNLIMITED, CommitSize

TIMEOUT_S = 10.0
MOST = 10_000


@given(st.floats(1, 1e5), st.integers(1, MOST), st.integers(300, 2000))
def test_commits_settle_well_within_the_timeout(rate: float, backlog: int, size: int) -> None:
    """On a broker that takes so many bytes a second, after at most a few transactions that come to nothing."""
    limiter = CommitSize(TIMEOUT_S, MOST)
    undone = 0
    for _ in range(200):
        inputs = min(limiter.limit, backlog)
        seconds = inputs * size / rate
        if seconds > TIMEOUT_S:
            undone += 1
            limiter.undone(inputs, TIMEOUT_S)
        else:
            limiter.committed(inputs, seconds)
    assert undone <= 14 or size / rate > TIMEOUT_S  # as often as MOST can be halved
    assert min(limiter.limit, backlog) * size / rate <= (SLOW + 0.25) * TIMEOUT_S or limiter.limit <= 2


@given(st.lists(st.tuples(st.integers(1, MOST), st.floats(0, SLOW * TIMEOUT_S))))
def test_a_broker_that_keeps_up_is_never_hindered(commits: list[tuple[int, float]]) -> None:
    limiter = CommitSize(TIMEOUT_S, MOST)
    for inputs, seconds in commits:
        limiter.committed(inputs, seconds)
        limiter.undone(inputs, OLD * TIMEOUT_S)  # by a rebalance, say
    assert limiter.limit == UNLIMITED
    assert limiter.news() == []


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=20))
def test_after_an_outage_it_grows_back(failed: list[int]) -> None:
    limiter = CommitSize(TIMEOUT_S, MOST)
    for inputs in failed:
        limiter.undone(min(inputs, limiter.limit), TIMEOUT_S)
    assert 1 <= limiter.limit <= max(1, failed[0] // 2)
    assert "the broker is slow" in limiter.news()[0]
    steps = 0
    while limiter.limit < UNLIMITED:
        before = limiter.limit
        limiter.committed(limiter.limit // 2 - 1, 0.0)  # less than it could have carried proves nothing
        assert limiter.limit == before
        limiter.committed(limiter.limit, QUICK * TIMEOUT_S / 2)
        assert limiter.limit > before
        steps += 1
    assert steps < 50
    assert "keeps up again" in limiter.news()[-1]


def test_a_slow_commit_of_positions_alone_tells_nothing() -> None:
    limiter = CommitSize(TIMEOUT_S, MOST)
    limiter.committed(0, TIMEOUT_S)
    assert limiter.limit == UNLIMITED


def test_a_slowness_is_told_once_and_again_when_it_is_far_worse() -> None:
    limiter = CommitSize(TIMEOUT_S, MOST)
    limiter.undone(640, TIMEOUT_S)
    assert limiter.news() == [
        "the broker is slow: a transaction of 640 inputs failed after 10.0 s, and it aborts transactions after 10 s "
        "(kafka.options.transaction.timeout.ms); from now on each has at most 320 inputs"
    ]
    for _ in range(5):
        limiter.committed(320, 0.5)
        limiter.committed(limiter.limit, 4.0)
    told = limiter.news()
    assert len(told) <= 2
    assert all("a commit of " in line for line in told)
