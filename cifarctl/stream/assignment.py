"""The partitions that a group assigns to this process, and those to be told when that changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from confluent_kafka import Consumer, TopicPartition

from cifarctl.stream.identity import TopicWatch
from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.paused import PausedPartitions
from cifarctl.stream.records import Partition
from cifarctl.stream.start_offsets import StartOffsets

PartitionsCallback: TypeAlias = Callable[[frozenset[Partition]], None]


class Assignment:
    """Answers the client's rebalance callbacks, which run in the thread that reads."""

    def __init__(
        self,
        offsets: PartitionOffsets,
        paused: PausedPartitions,
        start_offsets: StartOffsets,
        watch: TopicWatch,
        start: Mapping[Partition, int],
    ) -> None:
        """All but `start` keep something for each assigned partition.

        A partition in `start` is read from there when it is first assigned, whatever the group has committed.
        """
        self._offsets, self._paused, self._start_offsets, self._watch = offsets, paused, start_offsets, watch
        self._start = dict(start)
        self._listeners: list[tuple[PartitionsCallback, PartitionsCallback]] = []
        self.rebalances = 0
        self.leaving: frozenset[Partition] = frozenset()  # being revoked now

    def listen(self, on_revoke: PartitionsCallback, on_lost: PartitionsCallback) -> None:
        """Call `on_revoke` before partitions go away (it may still commit), `on_lost` after they are gone."""
        self._listeners.append((on_revoke, on_lost))

    def close(self) -> None:
        """Tell nobody any more."""
        self._listeners.clear()

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has assigned these partitions."""
        self.rebalances += 1
        new = _named(partitions)
        self._paused.release(new)
        if self._start:
            for place in partitions:
                partition = (place.topic, place.partition)
                if partition in self._start:
                    place.offset = self._offsets.committed[partition] = self._start.pop(partition)
            consumer.incremental_assign(partitions)
        self._offsets.assign(new, self.rebalances)
        self._watch.assigned(new)

    def on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """The group takes these partitions away, once the listeners are done."""
        self.rebalances += 1
        self.leaving = gone = _named(partitions)
        try:
            for revoked, _lost in self._listeners:
                revoked(gone)
        finally:
            self.leaving = frozenset()
            self._forget(gone)

    def on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has given these partitions to others already."""
        self.rebalances += 1
        gone = _named(partitions)
        self._forget(gone)
        self.tell_lost(gone)

    def tell_lost(self, gone: frozenset[Partition]) -> None:
        """Tell the listeners that nothing read from these partitions counts any more."""
        for _revoked, lost in self._listeners:
            lost(gone)

    def _forget(self, gone: frozenset[Partition]) -> None:
        self._offsets.forget(gone)
        self._paused.release(gone)
        self._watch.forget(gone)
        self._start_offsets.forget(gone)


def _named(partitions: Sequence[TopicPartition]) -> frozenset[Partition]:
    return frozenset((partition.topic, partition.partition) for partition in partitions)
