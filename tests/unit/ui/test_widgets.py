"""Widgets: bars, sparklines, numbers, rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import text_of

from cifarctl.ui.widgets import Every, Log, Rate, bar, duration, milliseconds, percent, ranges, rate, sparkline


def test_numbers() -> None:
    assert [percent(None), percent(0.0), percent(1.0), percent(0.12345)] == ["–", "0.0 %", "100.0 %", "12.3 %"]
    assert [duration(0), duration(61), duration(3661), duration(float("inf")), duration(-5)] == [
        "00:00", "01:01", "1:01:01", "–", "00:00",
    ]  # fmt: skip
    assert [milliseconds(None), milliseconds(1.25), milliseconds(2500)] == ["–", "1.2 ms", "2.5 s"]
    assert [rate(0.2, "messages"), rate(12_345, "images")] == ["0.20 messages/s", "12,345 images/s"]
    told = [rate(value, "images") for value in (None, 0.0, 0.0042)]
    assert told == ["– images/s", "0 images/s", "0.0042 images/s"]


@given(st.floats(allow_nan=False), st.integers(1, 80))
def test_a_bar_has_its_width(share: float, width: int) -> None:
    assert len(bar(share, width)) == width


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_the_numbers_and_no_others(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    assert (text == "none") == (not numbers)
    named: list[int] = []
    for part in text.split(", ") if numbers else []:
        first, _, last = part.partition("–")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


@given(st.lists(st.floats(-1, 2), max_size=80), st.integers(1, 60))
def test_a_sparkline_has_its_width_and_shows_the_latest(values: list[float], width: int) -> None:
    shown = sparkline(values, width).plain
    assert len(shown) == width
    assert len(shown.rstrip()) == min(len(values), width)
    if values and len(values) <= width:
        assert (shown[0] == "█") == (values[0] >= 7 / 8)


def test_a_log_keeps_its_height_and_the_latest_lines() -> None:
    log = Log(3, now=lambda: 0.0)
    assert len(text_of(log.render())) <= 3
    for number in range(5):
        log.add(f"line {number}")
    shown = text_of(log.render())
    assert [line.split("  ")[1].strip() for line in shown] == ["line 2", "line 3", "line 4"]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = 0.0
    found = Rate(window=5.0, now=lambda: now)
    assert found.value is None
    for _ in range(100):
        now += 1.0
        found.add(20)
    assert found.value == pytest.approx(20, rel=0.2)
    for _ in range(20):
        now += 1.0
        found.add(100)
    assert found.value == pytest.approx(100, rel=0.2)
    now += 995.0
    assert found.value is not None
    assert found.value < 1


def test_every_paces() -> None:
    now = 0.0
    every = Every(5.0, now=lambda: now)
    times = iter([0.0, 1.0, 4.9, 5.0, 9.0, 10.0])
    found = []
    while (now := next(times, -1.0)) >= 0:
        found.append(every())
    assert found == [True, False, False, True, False, True]
