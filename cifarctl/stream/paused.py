"""The partitions from which the client fetches nothing for now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from confluent_kafka import Consumer, TopicPartition

from cifarctl.stream.records import Partition


class PausedPartitions:
    """The partitions that the client has paused, as the client itself sees it.

    librdkafka pauses the partition, not its assignment: a partition that goes away paused comes back paused, without
    any notice. So a partition must be released whenever it goes, comes or is assigned anew.
    """

    def __init__(self, consumer: Consumer) -> None:
        """Nothing is paused yet."""
        self._consumer = consumer
        self._paused: frozenset[Partition] = frozenset()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._paused

    def only(self, wanted: Set[Partition]) -> None:
        """Pause `wanted` and nothing else.

        Raises:
            KafkaException: the client refuses; partitions paused or resumed by then are remembered.
        """
        self._change(self._consumer.resume, self._paused - wanted)
        self._paused &= wanted
        self._change(self._consumer.pause, wanted - self._paused)
        self._paused |= wanted

    def release(self, partitions: Iterable[Partition]) -> None:
        """Resume these, whatever was known of them; resuming a partition that is not paused does nothing.

        Raises:
            KafkaException: the client refuses.
        """
        gone = frozenset(partitions)
        self._change(self._consumer.resume, gone)
        self._paused -= gone

    @staticmethod
    def _change(call: Callable[[list[TopicPartition]], object], of: Iterable[Partition]) -> None:
        if places := [TopicPartition(*partition) for partition in of]:
            call(places)
