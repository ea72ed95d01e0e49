"""Monitors of drift that take over a dump."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import detections, outcomes

from cifarctl.online.drift import ErrorMonitor, Name

DETECTORS = ("adwin", "hddm-w", "page-hinkley", "kswin")


@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 99),
    before=st.lists(st.tuples(st.integers(1, 250), st.sampled_from([0.0, 0.2, 0.5, 0.9])), max_size=4),
    after=st.lists(st.tuples(st.integers(1, 250), st.sampled_from([0.0, 0.2, 0.5, 0.9])), max_size=4),
    used=st.integers(0, 60),
)
def test_a_monitor_that_takes_over_a_dump_goes_on_as_the_other_would(
    name: Name, seed: int, before: list[tuple[int, float]], after: list[tuple[int, float]], used: int
) -> None:
    original, successor = ErrorMonitor(name, seed), ErrorMonitor(name, seed)
    detections(original, outcomes(seed, *before))
    detections(successor, outcomes(1000 + seed, (used, 0.5)))  # whatever it has seen itself is forgotten
    successor.load(original.dump())
    wrongs = outcomes(100 + seed, *after, (200, 0.1), (200, 0.95))
    for wrong in wrongs:
        assert successor.update(wrong) == original.update(wrong)
    assert torch.equal(successor.dump(), original.dump())
