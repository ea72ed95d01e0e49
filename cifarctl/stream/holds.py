"""Which partitions the client is told to fetch nothing of for now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from confluent_kafka import Consumer, TopicPartition

from cifarctl.stream.records import Partition


class Holds:
    """The partitions that the client has paused: what is kept here is what the client itself keeps.

    librdkafka's pause belongs to the partition, not to its assignment: one that goes away paused comes back paused, and
    nothing tells of it. A partition must therefore be released whenever it goes, comes or is assigned anew.
    """

    def __init__(self, consumer: Consumer) -> None:
        """Nothing is held."""
        self._consumer = consumer
        self._held: frozenset[Partition] = frozenset()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._held

    def only(self, wanted: Set[Partition]) -> None:
        """Hold `wanted` and nothing else.

        Raises:
            KafkaException: the client refuses; what it has done by then is known.
        """
        self._change(self._consumer.resume, self._held - wanted)
        self._held &= wanted
        self._change(self._consumer.pause, wanted - self._held)
        self._held |= wanted

    def release(self, partitions: Iterable[Partition]) -> None:
        """Hold these no longer, whatever was known of them; to resume what is not paused changes nothing.

        Raises:
            KafkaException: the client refuses.
        """
        gone = frozenset(partitions)
        self._change(self._consumer.resume, gone)
        self._held -= gone

    @staticmethod
    def _change(call: Callable[[list[TopicPartition]], object], of: Iterable[Partition]) -> None:
        if places := [TopicPartition(*partition) for partition in of]:
            call(places)
