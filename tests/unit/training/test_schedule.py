"""The schedule of the learning rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.models.optimiser import one_cycle
from cifarctl.training.schedule import cycle


@given(steps=st.integers(1, 3000), peak=st.floats(1e-6, 10))
def test_one_cycle_rises_once_and_falls_to_almost_nothing(steps: int, peak: float) -> None:
    rates = [one_cycle(step, steps, peak) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[0] == pytest.approx(peak / 25) or steps <= 4
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps >= 100:
        assert top == pytest.approx(0.25 * steps, abs=1)
        assert rates[top] == pytest.approx(peak, rel=0.01)
        assert rates[-1] < peak / 500


@given(epochs=st.integers(1, 60), first=st.one_of(st.none(), st.integers(1, 70)))
def test_cycles_follow_each_other_each_twice_as_long(epochs: int, first: int | None) -> None:
    found = list(dict.fromkeys(cycle(epoch, epochs, first) for epoch in range(1, epochs + 1)))
    assert [begin for begin, _ in found] == [1, *(end + 1 for _, end in found[:-1])]
    assert found[-1][1] == epochs
    if first is None:
        assert len(found) == 1
    else:
        lengths = [end - begin + 1 for begin, end in found]
        assert lengths[:-1] == [first * 2**number for number in range(len(found) - 1)]
        assert lengths[-1] >= min(first, epochs)
        assert lengths[-1] < first * 2 ** (len(found) - 1) + first
