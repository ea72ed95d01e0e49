"""How late labels meet their images."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from late_labels import Clock, number_of, pairs

from cifarctl.stream.join import Join, Place, Store
from cifarctl.stream.label_join import MIB, LabelJoin, Matched


def images(numbers: list[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images whose pixels tell their number."""
    pixels = np.zeros((len(numbers), 3, 32, 32), dtype=np.uint8)
    for row, number in enumerate(numbers):
        pixels[row, :, 0, :2] = number % 256, number // 256
    return pixels


def place(number: int, topic: str = "images") -> Place:
    return Place(topic, number % 3, 100 + number, 1000 * number)


def label_of(number: int) -> int:
    return number % 10


#: What arrives: images, labels or both of some numbers, in any order and any batches.
arrivals = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=120)


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_makes_the_same_pairs(halves: list[tuple[int, bool]], chance: random.Random) -> None:
    join = LabelJoin(wait_s=1e9, max_mb=64)
    told: list[tuple[str, int, int]] = []
    waiting = list(halves)
    seen: list[tuple[int, bool]] = []
    while waiting:
        kind = waiting[0][1]
        batch = []
        while waiting and waiting[0][1] == kind and (not batch or chance.random() < 0.7):
            batch.append(waiting.pop(0)[0])
        names = [str(number) for number in batch]
        before = list(seen)
        seen += [(number, kind) for number in batch]
        if kind:
            found = join.add_images(names, images(batch), batch, map(place, batch))
        else:
            labels = np.array([label_of(number) for number in batch], dtype=np.int64)
            found = join.add_labels(names, labels, [place(number, "labels") for number in batch])
        assert found.numbers == [int(image_id) for image_id in found.ids]
        # In the order of the halves that complete them, and as soon as both are there.
        new = [n for n in dict.fromkeys(batch) if (n, not kind) in before and (n, kind) not in before]
        assert pairs(found) == [(str(number), number, label_of(number)) for number in new]
        told += pairs(found)
        # What still waits holds the offset back, and nothing else.
        shown, labelled = {n for n, image in seen if image}, {n for n, image in seen if not image}
        lowest: dict[tuple[str, int], int] = {}
        for topic, lonely in (("images", shown - labelled), ("labels", labelled - shown)):
            for number in lonely:
                at = place(number, topic)
                lowest[at[:2]] = min(at.offset, lowest.get(at[:2], at.offset))
        assert join.low_water() == lowest
        assert len(join) == len(shown - labelled)
    both = {n for n, image in halves if image} & {n for n, image in halves if not image}
    assert sorted(told) == sorted((str(number), number, label_of(number)) for number in both)
    assert join.unmatched_images == join.unmatched_labels == join.conflicting_labels == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("image"), st.integers(0, 30)),
            st.tuples(st.just("label"), st.integers(0, 30)),
            st.tuples(st.just("settle"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.integers(1, 8)),
        ),
        max_size=150,
    )
)
def test_within_tight_bounds_no_pair_is_made_twice(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    join: Join[str] = Join(Store(8000, 10), wait_s=10, label_bytes=4000, settled_bytes=10**6, clock=clock)
    made: dict[int, float] = {}
    arrived: dict[tuple[str, int], float] = {}
    for kind, number in steps:
        if kind == "wait":
            clock.now += number
            join.expire()
            continue
        id, found = str(number), False
        arrived.setdefault((kind, number), clock.now)
        if kind == "image":
            label = join.add_item(id, f"item {id}", 500)
            found = label is not None
            assert label in (None, label_of(number))
        elif kind == "label":
            item = join.add_label(id, label_of(number))
            found = item is not None
            assert item in (None, f"item {id}")
        else:
            join.settle(id, label_of(number))
        assert join.items.fill <= 1
        assert join.labels.fill <= 1
        if found:
            # Not again while it is remembered, and never out of one half.
            assert clock.now - made.get(number, -1e9) > 10
            assert {("image", number), ("label", number)} <= arrived.keys()
            made[number] = clock.now


def test_what_waits_too_long_is_given_up_and_counted() -> None:
    clock = Clock()
    join = LabelJoin(wait_s=10, max_mb=1, clock=clock)
    join.add_images(["a"], images([1]), [1], [place(1)])
    join.add_labels(["x"], np.array([5]), [place(2, "labels")])
    clock.now += 6
    join.add_images(["b"], images([2]), [2], [place(2)])
    clock.now += 5
    assert pairs(join.add_labels(["a", "b"], np.array([1, 2]), [None, None])) == [("b", 2, 2)]
    assert (join.unmatched_images, join.unmatched_labels, join.displaced_images) == (1, 1, 0)
    assert join.low_water() == {}  # the labels of this test have no place
    clock.now += 11
    assert len(join.add_images(["x"], images([3]), [3], [place(3)]).ids) == 0
    assert join.unmatched_labels == 2


def test_beyond_its_room_the_oldest_go() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    numbers = list(range(500))
    join.add_images([str(n) for n in numbers], images(numbers), numbers, map(place, numbers))
    kept = len(join)
    assert MIB * 0.8 / 3072 < kept < MIB / 3072
    assert join.unmatched_images == join.displaced_images == 500 - kept
    assert min(join.low_water().values()) == 100 + 500 - kept
    found = join.add_labels([str(n) for n in numbers], np.zeros(500, dtype=np.int64), [None] * 500)
    assert found.ids == [str(n) for n in numbers[-kept:]]
    assert [number_of(image) for image in found.pixels] == numbers[-kept:]


@pytest.mark.parametrize("half", ["images", "labels", "settled", "long ids"])
def test_the_bound_is_one_of_real_memory(half: str) -> None:
    join = LabelJoin(wait_s=1e9, max_mb=2)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, 6000, 50):
            names = [f"{'x' * (900 if half == 'long ids' else 1)}-{n:08d}" for n in range(start, start + 50)]
            if half == "images":
                join.add_images(names, images([1] * 50), [1] * 50, [place(300 + n) for n in range(start, start + 50)])
            elif half == "settled":
                join.settle(names, [3] * 50)
            else:
                join.add_labels(names, np.zeros(50, dtype=np.int64), [place(n, "labels") for n in range(50)])
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    allowed = {"images": 2, "labels": 1, "settled": 0.5, "long ids": 1}[half] * MIB
    assert allowed * 0.5 < used < allowed * 1.1


def test_repeated_and_conflicting_labels_are_counted_and_change_nothing() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)

    def label(value: int) -> Matched:
        return join.add_labels(["a"], np.array([value]), [None])

    assert pairs(label(3)) == []
    assert pairs(label(3)) == []
    assert pairs(label(4)) == []
    assert (join.repeated_labels, join.conflicting_labels) == (1, 1)
    assert pairs(join.add_images(["a"], images([7]), [7], [None])) == [("a", 7, 3)]  # the first one counts
    assert pairs(label(3)) == pairs(label(5)) == []
    assert (join.repeated_labels, join.conflicting_labels) == (2, 2)
    assert pairs(join.add_images(["a"], images([7]), [7], [None])) == []
    assert len(join) == 0


def test_an_image_that_brings_its_label_waits_for_none() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_labels(["a", "b"], np.array([1, 2]), [place(1), place(2)])
    join.add_images(["c"], images([3]), [3], [place(3)])
    join.settle(["a", "b", "c", "d"], [1, 9, 3, None])
    assert (join.repeated_labels, join.conflicting_labels) == (1, 1)
    assert join.low_water() == {}
    assert len(join) == 0
    assert pairs(join.add_labels(["c", "d"], np.array([3, 4]), [None, None])) == []
    assert join.repeated_labels == 3


def test_partitions_that_go_away_take_along_what_waits() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_images(["0", "1", "2"], images([0, 1, 2]), [0, 1, 2], map(place, range(3)))
    join.add_labels(["x"], np.array([5]), [place(1, "labels")])
    join.forget({("images", 0), ("labels", 1)})
    assert join.low_water() == {("images", 1): 101, ("images", 2): 102}
    assert pairs(join.add_labels(["0", "1"], np.array([0, 1]), [None, None])) == [("1", 1, 1)]
    assert join.unmatched_images == 0  # somebody else has it now


def test_expired_images_hold_no_offset_back() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_images(["1", "4", "7"], images([1, 4, 7]), [1, 4, 7], map(place, [1, 4, 7]))
    join.add_images(["x"], images([9]), [9], [Place("images", 0, 5, -1)])  # of unknown age
    assert join.low_water() == {("images", 0): 5, ("images", 1): 101}
    assert join.low_water(3999) == {("images", 0): 5, ("images", 1): 104}
    assert join.low_water(10_000) == {("images", 0): 5}
