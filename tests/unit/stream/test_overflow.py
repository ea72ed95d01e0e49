"""Images that wait on disk: as if all were in memory, within both bounds, and whatever the disk does."""

from __future__ import annotations

import random
import resource
import sqlite3
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.stream.image_store import PAGE, Image, ImageStore
from cifarctl.stream.join import ENTRY_BYTES, Join, Place
from cifarctl.stream.label_join import MIB, LabelJoin

SIZE = 3072
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
FEW = 3 * (SIZE + ENTRY_BYTES + 20)  # room for some three images


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def image(number: int) -> Image:
    """An image whose pixels tell its number."""
    return Image(number, number.to_bytes(4, "big") * (SIZE // 4))


def joined(images: ImageStore, clock: Clock) -> Join[Image]:
    return Join(images, wait_s=10, label_bytes=MIB, settled_bytes=MIB, clock=clock)


def in_memory(images: ImageStore) -> int:
    return len(images._entries)


def pages(images: ImageStore) -> int:
    """Those of the file."""
    assert images._file is not None
    (count,) = images._file._db.execute("PRAGMA page_count").fetchone()
    return int(count)


# --- as if all were in memory

names = st.one_of(st.integers(0, 25).map(str), st.sampled_from(["", "ä\0b", "ä", "x" * 1024]))
partitions = st.integers(0, 2).map(lambda number: ("images", number))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("image"), names),
        st.tuples(st.just("image"), names),  # twice as often
        st.tuples(st.just("image of no place"), names),
        st.tuples(st.just("label"), names, st.integers(0, 1)),
        st.tuples(st.just("settle"), names, st.sampled_from([None, 0, 1])),
        st.tuples(st.just("wait"), st.floats(0, 6)),
        st.tuples(st.just("forget"), st.frozensets(partitions, max_size=2)),
    ),
    max_size=80,
)


def state(join: Join[Image], images: ImageStore, now_ms: int) -> dict[str, Any]:
    """All that a join tells of itself."""
    return {
        "length": len(images),
        "numbers": [list(images.numbers(most).items()) for most in (0, 2, 5, 1000)],
        "low": [join.low_water(limit) for limit in (None, now_ms - 3000)],
        "unmatched": (join.unmatched_items, join.unmatched_labels, images.displaced, images.expired),
        "repeated": (join.repeated_items, join.repeated_labels, join.conflicting_labels),
        "items": {id: images[id] for id in images.numbers(1000)},
    }


@given(steps, st.integers(1, FEW))
def test_on_disk_and_in_memory_images_wait_alike(steps: list[tuple[Any, ...]], max_bytes: int) -> None:
    clock = Clock()
    wide, narrow = ImageStore(MIB, 10), ImageStore(max_bytes, 10, disk_bytes=MIB)
    one, other = joined(wide, clock), joined(narrow, clock)
    for number, (kind, *words) in enumerate(steps):
        if kind == "wait":
            clock.now += words[0]
            one.expire()
            other.expire()
        elif kind == "forget":
            one.forget(*words)
            other.forget(*words)
        elif kind == "label":
            assert one.add_label(*words) == other.add_label(*words)
        elif kind == "settle":
            one.settle(*words)
            other.settle(*words)
        else:
            at = (
                None if kind == "image of no place" else Place("images", number % 3, 50 - number, int(clock.now * 1000))
            )
            if number % 7 == 0 and at is not None:
                at = at._replace(timestamp_ms=-1)
            assert one.add_item(*words, image(number), SIZE, at) == other.add_item(*words, image(number), SIZE, at)
        now_ms = int(clock.now * 1000)
        assert state(one, wide, now_ms) == state(other, narrow, now_ms)
        assert in_memory(narrow) <= 3
    narrow.close()
    assert len(narrow) == in_memory(narrow)


def test_images_and_labels_meet_across_the_disk_with_their_pixels_and_numbers() -> None:
    count = 1000
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    with LabelJoin(wait_s=1e9, max_mb=1, disk_mb=16) as join:
        join.add_images([str(n) for n in range(count)], pixels, range(count), [None] * count)
        assert (len(join), join.unmatched_images) == (count, 0)
        assert join.fill == pytest.approx((1 + (count - 290) * 4300 / MIB) / 17, abs=0.01)
        assert list(join.numbers(900).items()) == [(str(n), n) for n in range(100, count)]
        order = chance.permutation(count)
        found = join.add_labels([str(n) for n in order], order % 10, [None] * count)
        assert found.numbers == order.tolist()
        assert (found.pixels == pixels[order]).all()
        assert (found.labels == order % 10).all()
        assert len(join) == 0
        assert join.fill < 0.01


# --- bounds


@pytest.mark.parametrize("length", [1, 1000])
def test_beyond_both_bounds_the_oldest_go(length: int) -> None:
    chance = random.Random(0)
    store = ImageStore(20 * (SIZE + ENTRY_BYTES + length), 1e9, disk_bytes=MIB)
    waiting: OrderedDict[str, int] = OrderedDict()
    taken = given_up = 0
    for number in range(800):
        id = f"{number:0{length}}"
        store.put(id, image(number), SIZE, 0, None)
        waiting[id] = number
        while given_up < store.displaced:
            waiting.popitem(last=False)
            given_up += 1
        if chance.random() < 0.2:
            wanted = chance.choice(list(waiting))
            assert store.pop(wanted) == image(waiting.pop(wanted))
            taken += 1
        assert len(store) == len(waiting) == number + 1 - taken - given_up
        assert store.fill <= 1
        assert pages(store) * PAGE <= MIB
        assert in_memory(store) <= 20
    assert store.displaced > 300
    assert store.numbers(10_000) == waiting
    assert store.fill > 0.8
    store.close()


# --- disks that fail


class Failing:
    """A connection that fails for good after so many statements."""

    def __init__(self, connection: sqlite3.Connection, after: int) -> None:
        self._connection, self._left = connection, after

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._left -= 1
        if self._left < 0:
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(*arguments)

    def close(self) -> None:
        self._connection.close()


@given(steps, st.integers(0, 150))
def test_when_the_disk_fails_what_was_there_is_given_up_and_memory_goes_on(
    steps: list[tuple[Any, ...]], after: int
) -> None:
    clock = Clock()
    images = ImageStore(FEW, 10, disk_bytes=MIB)
    assert images._file is not None
    images._file._db = Failing(images._file._db, after)  # type: ignore[assignment]
    join = joined(images, clock)
    came = matched = settled = forgotten = 0
    for number, (kind, *words) in enumerate(steps):
        length, lost = len(images), join.unmatched_items
        if kind == "wait":
            clock.now += words[0]
            join.expire()
        elif kind == "forget":
            join.forget(*words)
            forgotten += length - len(images) - (join.unmatched_items - lost)
        elif kind == "label":
            matched += join.add_label(*words) is not None
        elif kind == "settle":
            join.settle(*words)
            settled += length - len(images) - (join.unmatched_items - lost)
        else:
            repeated = join.repeated_items
            label = join.add_item(*words, image(number), SIZE, Place("images", number % 3, number, -1))
            came += label is None and join.repeated_items == repeated
        join.low_water()
        images.numbers(1000)
        assert images.fill <= 1
        assert in_memory(images) <= 3
        assert came == matched + settled + forgotten + join.unmatched_items + len(images)
        if images.failure is not None:
            assert images.failure == "database or disk is full"
            assert len(images) == in_memory(images)
    images.close()


@needs_proc
def test_a_disk_that_is_full_is_given_free(tmp_path: Path) -> None:
    """With a limit on the size of files, which is like a disk of that size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = ImageStore(FEW, 1e9, disk_bytes=64 * MIB, folder=tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, limits[1]))
        for number in range(3000):
            store.put(str(number), image(number), SIZE, 0, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.failure
    assert (len(store), store.displaced) == (3, 2997)
    assert store.pop("2999") == image(2999)
    assert store.fill <= 1
    assert not open_files(tmp_path)


def test_a_missing_folder_is_not_a_disk(tmp_path: Path) -> None:
    store = ImageStore(FEW, 1e9, disk_bytes=MIB, folder=tmp_path / "absent")
    for number in range(10):
        store.put(str(number), image(number), SIZE, 0, None)
    assert "absent" in str(store.failure)
    assert (list(store.numbers(10)), store.displaced) == (["7", "8", "9"], 7)


# --- nothing is left behind


def open_files(folder: Path) -> list[str]:
    """Files of a folder that this process has open, whether they have a name or not."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of the listing
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(str(folder))]


@needs_proc
def test_the_file_has_no_name_and_goes_when_it_is_closed(tmp_path: Path) -> None:
    with LabelJoin(wait_s=1e9, max_mb=1, disk_mb=1, folder=tmp_path):
        assert list(tmp_path.iterdir()) == []
        assert len(open_files(tmp_path)) == 1
    assert open_files(tmp_path) == []


def test_a_file_that_has_to_keep_its_name_is_deleted_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("in use")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        store = ImageStore(FEW, 1e9, disk_bytes=MIB, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    store.close()
    assert list(tmp_path.iterdir()) == []
