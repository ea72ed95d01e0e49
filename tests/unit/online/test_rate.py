"""The learning rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cifarctl.online.rate import AdaptiveRate


def test_the_rate_rises_at_once_and_falls_by_steps() -> None:
    rate = AdaptiveRate(base=1e-3, lowest=2e-4, highest=4e-3)
    assert rate.value == 1e-3
    assert rate.drift()
    assert rate.value == 4e-3
    assert not rate.drift()
    seen = [rate.value]
    while rate.calm():
        seen.append(rate.value)
    assert seen == sorted(seen, reverse=True)
    assert rate.value == 2e-4
    assert not rate.calm()
    assert rate.drift()


@given(st.lists(st.sampled_from(["drift", "calm"]), max_size=60), st.floats(1e-5, 1), st.floats(1e-5, 1))
def test_the_rate_stays_within_its_bounds(steps: list[str], lowest: float, highest: float) -> None:
    rate = AdaptiveRate(base=1e-3, lowest=lowest, highest=highest)
    for step in steps:
        before = rate.value
        changed = getattr(rate, step)()
        assert changed == (rate.value != before)
        assert min(lowest, 1e-3) <= rate.value <= max(highest, 1e-3)
        if step == "drift":
            assert rate.value == rate.highest
        elif step == "calm":
            assert rate.value <= before
