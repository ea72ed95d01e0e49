"""Unmatched labels and timestamps without a latency are counted and reported."""

from __future__ import annotations

import numpy as np
import pytest

from cifarctl import events
from cifarctl.serving.clocks import Clocks
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.unmatched_labels import MIN_UNMATCHED, UnmatchedLabels
from cifarctl.tally import Latencies

HOUR_MS = 3_600_000


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Attempt:
    """serve's labels, its clock, and the watcher of unmatched labels."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.late = DelayedLabels(600, clock=self.clock)
        self.unmatched = UnmatchedLabels(self.late, "cifar.labels", 600, self.clock)

    def answer(self, ids: list[str], label: int = -1) -> None:
        self.late.add(ids, np.full(len(ids), label), np.zeros(len(ids), dtype=np.int64), 1)

    def label(self, ids: list[str]) -> None:
        self.late.label((name, 1) for name in ids)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def test_labels_that_match_nothing_are_said_once_with_an_example() -> None:
    served = Attempt()
    served.answer(names("image", 100))
    served.label(names("typo", 10_001))
    assert served.unmatched.count == 10_001
    assert served.unmatched.look(drained=True) is None  # their images may be on their way
    served.clock.now += 30
    assert served.unmatched.look(drained=False) is None  # likewise
    notice = served.unmatched.look(drained=True)
    assert notice is not None
    assert notice.message.startswith("10,001 of 10,001 labels on cifar.labels match no image that was read here")
    for part in ("'typo-0'", "ids", "kafka.topic_prefix", "online.label_wait"):
        assert part in notice.message
    served.clock.now += 3600  # they have been given up by now, and still count
    assert served.unmatched.look(drained=True) is None
    assert served.unmatched.count == 10_001


def test_a_label_that_meets_its_image_late_is_not_unmatched() -> None:
    served = Attempt()
    served.label(names("image", 1000))
    served.answer(names("image", 1000))
    served.label(names("image", 1000))  # once more
    served.clock.now += 30
    assert (served.unmatched.count, served.unmatched.look(drained=True)) == (0, None)


def test_a_few_unmatched_labels_among_many_are_only_counted() -> None:
    served = Attempt()
    served.answer(names("image", 1000))
    served.label(names("image", 1000) + names("typo", 900))
    served.clock.now += 30
    assert (served.unmatched.count, served.unmatched.look(drained=True)) == (900, None)


def test_the_labels_of_images_that_others_answer_are_nothing_to_speak_of() -> None:
    """One of several replicas: it knows a third of the ids."""
    served = Attempt()
    served.answer(names("mine", 100))
    served.label(names("mine", 100) + names("theirs", 200))
    served.clock.now += 30
    assert served.unmatched.look(drained=True, whole=False) is None
    assert served.unmatched.look(drained=True, whole=True) is None  # it has just looked
    assert served.unmatched.verdict(whole=True) is not None


def test_the_label_of_an_image_that_came_labelled_is_not_unmatched() -> None:
    served = Attempt()
    served.label(["image-0"])
    served.answer(names("image", MIN_UNMATCHED * 2), label=1)
    served.label(names("image", MIN_UNMATCHED * 2))
    served.clock.now += 30
    assert (served.unmatched.count, served.unmatched.look(drained=True)) == (0, None)


def served(*latencies: float) -> events.BatchServed:
    count = len(latencies)
    return events.BatchServed(
        version=1,
        ids=[""] * count,
        labels=np.full(count, -1),
        predicted=np.zeros(count, dtype=np.int64),
        confidence=np.ones(count, dtype=np.float32),
        latency_ms=np.array(latencies),
        dead_letters=[],
        seconds=0.1,
    )


def test_what_cannot_be_a_latency_is_left_out_and_counted() -> None:
    latencies = Latencies()
    latencies.add(np.array([-HOUR_MS, 1.8e12, np.nan]))
    assert (latencies.percentile(0.99), latencies.left_out) == (None, 3)
    latencies.add(np.array([-5.0, 100.0, 100.0, 100.0]))  # clocks differ by a few milliseconds
    assert latencies.percentile(0.99) == pytest.approx(100, rel=0.03)
    assert latencies.percentile(0.01) == pytest.approx(0.01, rel=0.03)
    assert latencies.left_out == 3
    latencies.add(np.full(1000, 2 * 24 * HOUR_MS))  # a backlog of two days is one
    assert latencies.percentile(0.99) == pytest.approx(2 * 24 * HOUR_MS, rel=0.03)


def test_each_fault_of_the_timestamps_is_said_once() -> None:
    clocks = Clocks()
    assert list(clocks.look(served(5.0, -3.0, 1e8))) == []
    (ahead,) = clocks.look(served(5.0, -HOUR_MS, -HOUR_MS / 2))
    assert ahead.message.startswith("the producer's clock is 3,600 s ahead of this one")
    (old,) = clocks.look(served(5.0, 1.8e12))
    assert old.message.startswith("an image was produced 20,833 days ago, by its timestamp")
    assert "12 days" in old.message
    (none,) = clocks.look(served(np.nan))
    assert "without a timestamp" in none.message
    assert list(clocks.look(served(-HOUR_MS, 1.8e12, np.nan))) == []
