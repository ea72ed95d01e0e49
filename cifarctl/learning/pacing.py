"""Reading partitions side by side in the order of time, where reading one of them to its end would fill the memory."""

from __future__ import annotations

from collections.abc import Sequence, Set

from cifarctl.stream.records import Partition, Record

HOLD = 0.5  # share of the room from which on partitions that run ahead are held back
RELEASE = 0.25
AHEAD_MS = 100


class PartitionPacing:
    """Which partitions are to be held back, since what they bring waits for what others will bring, and room is short.

    A backlog of labels is read many times as fast as that of their images, and one partition's before the next one's:
    unchecked, what waits is pushed out before its other half comes. Who runs ahead is told by the messages' own times.
    A partition that has nothing more to bring is not waited for.
    """

    def __init__(self) -> None:
        self.held: frozenset[Partition] = frozenset()
        self._latest: dict[Partition, int] = {}  # epoch milliseconds
        self._exhausted: set[Partition] = set()

    def after(self, records: Sequence[Record], assigned: Set[Partition], fill: float) -> frozenset[Partition]:
        """Those of the `assigned` to hold back after `records` were read; what waits takes `fill` of its room (0-1)."""
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
