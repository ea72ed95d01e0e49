"""What of the images topic a learner has been shown, so that what is read again is not shown again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarctl.stream.records import Partition, Record

MOST = 50_000  # numbers that are remembered of images which may be read again


class ReadProgress:
    """How far each partition was read, and the numbers of images that wait for labels.

    After a restart, or when a partition comes back, all is read again from what was committed on.
    """

    def __init__(self) -> None:
        self._spans: dict[Partition, tuple[int, int]] = {}  # committed, and the next one to be read, at least
        self._numbers: dict[str, int] = {}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> ReadProgress:
        """Take over a dump; an empty one is of nothing shown."""
        shown = cls()
        shown._spans = {(topic, partition): (low, high) for topic, partition, low, high in dumped.get("spans", [])}
        shown._numbers = dict(dumped.get("numbers", {}))
        return shown

    def dump(self, waiting: Mapping[str, int]) -> dict[str, Any]:
        """JSON-able state; `waiting` has the numbers of images that wait at present."""
        self.keep(waiting)
        return {"spans": [[*partition, *span] for partition, span in self._spans.items()], "numbers": self._numbers}

    def add(self, record: Record) -> bool:
        """Note that a record is read; whether it is for the first time."""
        partition, offset = (record.topic, record.partition), record.offset
        low, high = self._spans.get(partition, (offset, offset))
        if offset < low:  # not to be read again: the topic was made anew
            low, high = offset, offset
        self._spans[partition] = low, max(high, offset + 1)
        return offset >= high

    def number(self, image_id: str, default: int) -> int:
        """The number that an image had which is read again."""
        return self._numbers.get(image_id, default)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing before `offsets` is read again."""
        for partition, offset in offsets.items():
            if partition in self._spans:
                self._spans[partition] = offset, max(offset, self._spans[partition][1])

    def keep(self, waiting: Mapping[str, int]) -> None:
        """Remember the numbers of images that wait, the newest of them if there are very many."""
        self._numbers |= waiting
        for image_id in list(self._numbers)[:-MOST]:
            del self._numbers[image_id]
