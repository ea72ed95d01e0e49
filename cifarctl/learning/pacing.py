"""Reads partitions in step by message time, where reading one of them to its end would fill the memory."""

from __future__ import annotations

from collections.abc import Sequence, Set

from cifarctl.stream.records import Partition, Record

HOLD = 0.5  # fill of the label join above which partitions that run ahead are paused
RELEASE = 0.25  # fill below which all are resumed
AHEAD_MS = 100  # lead that is tolerated, in milliseconds of message time


class PartitionPacing:
    """Chooses the partitions to pause while images and labels wait for each other and room is short.

    A backlog of labels is read many times as fast as the images they belong to, and one partition before the next.
    Without pacing, waiting images would be displaced before their labels arrive. The messages' timestamps tell which
    partitions run ahead. Partitions without further messages are not waited for.
    """

    def __init__(self) -> None:
        self.held: frozenset[Partition] = frozenset()
        self._latest: dict[Partition, int] = {}  # epoch milliseconds
        self._exhausted: set[Partition] = set()

    def after(self, records: Sequence[Record], assigned: Set[Partition], fill: float) -> frozenset[Partition]:
        """The `assigned` partitions to pause after `records` were read; the label join is filled to `fill` (0 to 1)."""
        self._latest = {partition: self._latest.get(partition, -1) for partition in assigned}
        for record in records:
            partition = (record.topic, record.partition)
            if partition in assigned:
                self._latest[partition] = max(self._latest[partition], record.timestamp_ms)
                self._exhausted.discard(partition)
        if self.held and not records:
            self._exhausted |= assigned - self.held
        low = min((at for partition, at in self._latest.items() if partition not in self._exhausted), default=0)
        if fill < RELEASE:
            self.held = frozenset()
        else:
            self.held = frozenset(
                partition
                for partition, at in self._latest.items()
                if (at > low if partition in self.held else fill > HOLD and at > low + AHEAD_MS)
            )
        return self.held
