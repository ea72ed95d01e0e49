"""Drift of the error, of all classes and of each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from outcomes import CLASSES, by_class, detections, outcomes

from cifarctl.online.drift import ClassMonitor, ErrorMonitor, Name, change_point

DETECTORS = ("adwin", "hddm-w", "page-hinkley", "kswin")

# --- drift of the error


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("seed", range(3))
def test_a_jump_of_the_error_is_found_within_300_images(name: Name, seed: int) -> None:
    monitor = ErrorMonitor(name)
    assert detections(monitor, outcomes(seed, (1000, 0.2))) == []
    found = detections(monitor, outcomes(100 + seed, (300, 0.6)))
    assert found
    first = found[0]
    assert 1000 < first.at <= 1300
    assert first.error_before < 0.35
    assert first.error_after > 0.4
    assert abs(first.at - first.since - 1000) <= 60


@given(before=st.integers(10, 300), after=st.integers(10, 300), rises=st.booleans())
def test_a_change_from_always_to_never_is_found_exactly(before: int, after: int, rises: bool) -> None:
    assert change_point([not rises] * before + [rises] * after) == before


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_a_change_point_leaves_something_on_either_side(errors: list[bool]) -> None:
    assert 1 <= change_point(errors) <= len(errors) - 1


@pytest.mark.parametrize("seed", range(5))
def test_a_change_of_the_error_rate_is_found_nearly(seed: int) -> None:
    assert abs(change_point(outcomes(seed, (400, 0.2), (100, 0.7))) - 400) <= 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("error", [0.1, 0.3, 0.5])
def test_adwin_is_quiet_while_the_error_stays(seed: int, error: float) -> None:
    assert detections(ErrorMonitor("adwin"), outcomes(seed, (5000, error))) == []


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("seed", range(3))
def test_a_falling_error_is_not_drift(name: Name, seed: int) -> None:
    monitor = ErrorMonitor(name)
    assert [found for found in detections(monitor, outcomes(seed, (600, 0.6))) if found.at > 60] == []
    assert detections(monitor, outcomes(100 + seed, (600, 0.2))) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_after_a_reset_another_level_is_nothing_new(name: Name) -> None:
    monitor = ErrorMonitor(name)
    detections(monitor, outcomes(0, (600, 0.1)))
    monitor.reset()
    assert detections(monitor, outcomes(1, (300, 0.5))) == []


# --- a class by itself


def test_class_monitors_go_on_from_a_dump() -> None:
    first, second = ClassMonitor("adwin", CLASSES), ClassMonitor("adwin", CLASSES)
    by_class(first, None, 3000)
    second.load(*first.dump())
    assert by_class(first, 2, 2000, start=3000) == by_class(second, 2, 2000, start=3000) != []
    second.reset()
    assert by_class(second, None, 1000, start=5000) == []


def test_a_dump_stays_as_it_is_while_the_monitor_goes_on() -> None:
    monitor = ErrorMonitor("adwin")
    empty = monitor.dump()
    detections(monitor, outcomes(0, (50, 0.3)))
    dumped = monitor.dump()
    kept = dumped.clone()
    detections(monitor, outcomes(1, (50, 0.3)))
    assert torch.equal(dumped, kept)
    monitor.load(empty)
    assert torch.equal(monitor.dump(), empty)
