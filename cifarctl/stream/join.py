"""A join by id of two streams, such as images and labels, that arrive in any order; in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, NamedTuple, TypeVar

from cifarctl.stream.records import Partition

ItemT = TypeVar("ItemT")

#: Memory of an entry besides its id and its item, in bytes; measured.
ENTRY_BYTES = 440


class Place(NamedTuple):
    """Where an item or a label was read; `timestamp_ms` is epoch milliseconds, -1 if the broker has none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(slots=True)
class Entry(Generic[ItemT]):
    """An item that has been waiting since `since` (the join's clock); `size` in bytes includes all overhead."""

    item: ItemT
    size: int
    since: float
    place: Place | None


class Store(Generic[ItemT]):
    """Entries by id in order of arrival; beyond `max_bytes`, or after `wait_s` seconds, the oldest are dropped."""

    def __init__(self, max_bytes: int, wait_s: float) -> None:
        self._max_bytes, self._wait_s = max_bytes, wait_s
        self._entries: OrderedDict[str, Entry[ItemT]] = OrderedDict()
        self._bytes = 0
        self.displaced = 0  # dropped to make room
        self.expired = 0
        self.given_up: str | None = None  # id of the last entry that was displaced or expired

    def __len__(self) -> int:
        return len(self._entries)

    def waiting(self, before: float) -> tuple[int, str | None]:
        """How many entries were added before the time `before`, and the id of the first of them."""
        if not self._entries:
            return 0, None
        if next(reversed(self._entries.values())).since <= before:
            count = len(self._entries)
        else:
            count = sum(1 for _ in takewhile(lambda entry: entry.since <= before, self._entries.values()))
        return count, next(iter(self._entries)) if count else None

    def __contains__(self, id: str) -> bool:
        return id in self._entries

    def __getitem__(self, id: str) -> ItemT:
        return self._entries[id].item

    @property
    def fill(self) -> float:
        """Share of `max_bytes` that is in use."""
        return self._bytes / self._max_bytes

    def put(self, id: str, item: ItemT, size: int, now: float, place: Place | None) -> None:
        """Add an entry whose item takes `size` bytes; its id must be new."""
        size += len(id) + ENTRY_BYTES
        self._entries[id] = Entry(item, size, now, place)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._displace(*self._take_oldest())

    def pop(self, id: str) -> ItemT | None:
        """Remove an entry and return its item; None if there is none."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return None
        self._bytes -= entry.size
        return entry.item

    def expire(self, now: float) -> None:
        """Drop entries that have waited too long."""
        while self._entries and now - next(iter(self._entries.values())).since > self._wait_s:
            self._take_oldest()
            self.expired += 1

    def forget(self, partitions: Set[Partition]) -> None:
        """Remove entries read from `partitions`, without counting them as dropped."""
        gone = [id for id, entry in self._entries.items() if entry.place and entry.place[:2] in partitions]
        for id in gone:
            self.pop(id)

    def low_water(self, low: dict[Partition, int], not_before_ms: int | None) -> None:
        """Lower `low` to the lowest offset of each partition that has an entry; see `Join.low_water`."""
        for entry in self._entries.values():
            if entry.place is None or (not_before_ms is not None and 0 <= entry.place.timestamp_ms < not_before_ms):
                continue
            partition, offset = entry.place[:2], entry.place.offset
            low[partition] = min(offset, low.get(partition, offset))

    def _displace(self, id: str, entry: Entry[ItemT]) -> None:  # noqa: ARG002  for subclasses that can put it elsewhere
        self.displaced += 1

    def _take_oldest(self) -> tuple[str, Entry[ItemT]]:
        id, entry = self._entries.popitem(last=False)
        self._bytes -= entry.size
        self.given_up = id
        return id, entry


class Join(Generic[ItemT]):
    """Items wait for their labels and labels for their items; a pair is made once.

    A matched id is remembered for `wait_s` seconds, within `settled_bytes`: repetitions of it are ignored and counted.
    """

    def __init__(
        self,
        items: Store[ItemT],
        *,
        wait_s: float,
        label_bytes: int,
        settled_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Items wait in `items`; labels and settled ids for `wait_s` seconds of `clock`, within their bytes."""
        self._clock = clock
        self.items = items
        self.labels: Store[int] = Store(label_bytes, wait_s)
        self._settled: Store[int | None] = Store(settled_bytes, wait_s)
        self.matched = 0  # pairs made
        self.repeated_items = 0
        self.repeated_labels = 0
        self.conflicting_labels = 0

    @property
    def unmatched_items(self) -> int:
        """Items dropped before their label came."""
        return self.items.displaced + self.items.expired

    @property
    def unmatched_labels(self) -> int:
        """Labels dropped before their item came."""
        return self.labels.displaced + self.labels.expired

    def labels_without_item(self, for_s: float) -> tuple[int, str | None]:
        """Labels that were dropped or have waited for `for_s` seconds, and the id of one of them."""
        count, example = self.labels.waiting(self._clock() - for_s)
        return self.unmatched_labels + count, example or self.labels.given_up

    @property
    def fitting_labels(self) -> int:
        """Labels whose item is known: matched ones and their repetitions."""
        return self.matched + self.repeated_labels + self.conflicting_labels

    def add_item(self, id: str, item: ItemT, size: int, place: Place | None = None) -> int | None:
        """Take in an item of `size` bytes; returns its label if that has been waiting."""
        if id in self._settled or id in self.items:
            self.repeated_items += 1
            return None
        label = self.labels.pop(id)
        if label is None:
            self.items.put(id, item, size, self._clock(), place)
        else:
            self.matched += 1
            self._settle(id, label)
        return label

    def add_label(self, id: str, label: int, place: Place | None = None) -> ItemT | None:
        """Take in a label; returns its item if that has been waiting."""
        if id in self._settled:
            self._compare(self._settled[id], label)
            return None
        if id in self.labels:
            self._compare(self.labels[id], label)
            return None
        item = self.items.pop(id)
        if item is None:
            self.labels.put(id, label, 0, self._clock(), place)
        else:
            self.matched += 1
            self._settle(id, label)
        return item

    def settle(self, id: str, label: int | None) -> None:
        """Remember an id whose label (None: unknown) came another way; the first label counts."""
        if id in self._settled:
            if label is not None:
                self._compare(self._settled[id], label)
            return
        self.items.pop(id)
        early = self.labels.pop(id)
        if early is not None:
            self._compare(label, early)
        self._settle(id, label)

    def expire(self) -> None:
        """Drop everything that has waited too long."""
        now = self._clock()
        for store in (self.items, self.labels, self._settled):
            store.expire(now)

    def forget(self, partitions: Set[Partition]) -> None:
        """Drop everything read from `partitions`: another process reads them now."""
        self.items.forget(partitions)
        self.labels.forget(partitions)

    def low_water(self, not_before_ms: int | None = None) -> dict[Partition, int]:
        """The lowest offset of each partition from which an item or a label is still waiting.

        A reader that commits no further reads the waiting ones again after a restart. Those produced before
        `not_before_ms` (epoch milliseconds) are not worth it and are left out.
        """
        low: dict[Partition, int] = {}
        self.items.low_water(low, not_before_ms)
        self.labels.low_water(low, not_before_ms)
        return low

    def _settle(self, id: str, label: int | None) -> None:
        self._settled.put(id, label, 0, self._clock(), None)

    def _compare(self, known: int | None, label: int) -> None:
        if known is None or known == label:
            self.repeated_labels += 1
        else:
            self.conflicting_labels += 1
