"""Tracks the images of the topic that a learner has seen, so that reading them again does not count twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarctl.stream.records import Partition, Record

MAX_NUMBERS = 50_000  # arrival numbers remembered, of images that may be read again


class ReadProgress:
    """How far each partition was read, and the arrival numbers of images that wait for labels.

    After a restart, or when a partition is assigned again, reading resumes at the committed offset.
    """

    def __init__(self) -> None:
        self._spans: dict[Partition, tuple[int, int]] = {}  # committed offset, and the next offset never read
        self._numbers: dict[str, int] = {}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> ReadProgress:
        """Restore a dump; an empty one means that nothing was read."""
        progress = cls()
        progress._spans = {(topic, partition): (low, high) for topic, partition, low, high in dumped.get("spans", [])}
        progress._numbers = dict(dumped.get("numbers", {}))
        return progress

    def dump(self, waiting: Mapping[str, int]) -> dict[str, Any]:
        """JSON-able state; `waiting` maps the ids of waiting images to their arrival numbers."""
        self.keep(waiting)
        return {"spans": [[*partition, *span] for partition, span in self._spans.items()], "numbers": self._numbers}

    def add(self, record: Record) -> bool:
        """Note that a record was read; returns whether for the first time."""
        partition, offset = (record.topic, record.partition), record.offset
        low, high = self._spans.get(partition, (offset, offset))
        if offset < low:  # committed offsets are never read again: the topic was recreated
            low, high = offset, offset
        self._spans[partition] = low, max(high, offset + 1)
        return offset >= high

    def number(self, image_id: str, default: int) -> int:
        """The arrival number of an image that was read before, else `default`."""
        return self._numbers.get(image_id, default)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Note committed offsets: nothing before them is read again."""
        for partition, offset in offsets.items():
            if partition in self._spans:
                self._spans[partition] = offset, max(offset, self._spans[partition][1])

    def keep(self, waiting: Mapping[str, int]) -> None:
        """Remember the arrival numbers of waiting images, the newest `MAX_NUMBERS` of them."""
        self._numbers |= waiting
        for image_id in list(self._numbers)[:-MAX_NUMBERS]:
            del self._numbers[image_id]
