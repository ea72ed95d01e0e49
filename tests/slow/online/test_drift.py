"""Monitors of drift: those that take their time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import CLASSES, by_class, detections, outcomes

from cifarctl.online.drift import ClassMonitor, ErrorMonitor, Name

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


DETECTORS = ("adwin", "hddm-w", "page-hinkley", "kswin")

# --- drift of the error


@pytest.mark.parametrize("name", DETECTORS)
def test_the_next_drift_is_found_too(name: Name) -> None:
    found = detections(ErrorMonitor(name), outcomes(5, (800, 0.1), (800, 0.5), (800, 0.95)))
    assert any(800 < detection.at <= 1100 for detection in found)
    assert any(1600 < detection.at <= 1900 for detection in found)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_monitor_is_reproducible(name: Name) -> None:
    wrongs = outcomes(2, (500, 0.2), (500, 0.5))
    assert detections(ErrorMonitor(name, 3), wrongs) == detections(ErrorMonitor(name, 3), wrongs)


# --- a class by itself


@pytest.mark.parametrize("name", ["adwin", "hddm-w", "kswin"])
def test_a_class_that_drifts_is_noticed_and_dated(name: Name) -> None:
    monitor = ClassMonitor(name, CLASSES)
    assert by_class(monitor, None, 4000) == []
    (told, label, began), *_ = by_class(monitor, 7, 2000, start=4000)
    assert label == 7
    assert told <= 5300
    assert abs(began - 4000) <= 100
