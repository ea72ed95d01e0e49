"""The offsets that a consumer group has committed: looking them up, and committing new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection
from cifarctl.stream.background import OVERTIME_S, StartCall
from cifarctl.stream.identity import TopicWatch
from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.records import Partition

#: The group has rebalanced without us; the new owners of the partitions read their records again.
REBALANCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError._ASSIGNMENT_LOST,
}


class GroupOffsets:
    """Commits and looks up the offsets of the group that `consumer` is a member of."""

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        start_call: StartCall,
        watch: TopicWatch,
        offsets: PartitionOffsets,
    ) -> None:
        """`start_call` starts a call of `consumer`; `watch` knows the topics' ids; `offsets` hears of commits."""
        self._settings, self._consumer, self._start_call = settings, consumer, start_call
        self._watch, self._offsets = watch, offsets
        self._commit: Future[Any] | None = None  # on its way
        self._committing: dict[Partition, int] = {}  # its offsets

    def membership(self) -> Any:
        """The group metadata with which the broker refuses offsets of a member that the group has dropped.

        Raises:
            KafkaException: this process is not a member now; offsets without a member would not be refused.
        """
        metadata = self._consumer.consumer_group_metadata()
        if not self._consumer.memberid():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        return metadata

    def marked(self, offsets: Mapping[Partition, int]) -> list[TopicPartition]:
        """`offsets` ready to commit, each with its `identity.Mark`.

        Raises:
            KafkaException: the marks are not known yet: read, and try again.
        """
        return self._watch.marked(offsets)

    def lookup(self, partitions: Iterable[Partition], timeout_s: float) -> dict[Partition, int]:
        """The committed offsets; those of partitions that are read here are moved by nobody else.

        Raises:
            KafkaException: the broker does not answer, or not for every partition.
            concurrent.futures.TimeoutError: the client itself hangs.
        """
        asked = [TopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        found = self._start_call(self._consumer.committed, asked, timeout=timeout_s).result(timeout_s + OVERTIME_S)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {(place.topic, place.partition): place.offset for place in found}

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float) -> bool:
        """Commit the next offset of each partition; False if the broker did not answer within `timeout_s` seconds.

        Partitions that another member has taken over are dropped: it reads those records again.

        Raises:
            BrokerError: the broker refuses.
        """
        if not offsets and self._commit is None:
            return True
        # In a thread, because the client's own time limit is a minute or more.
        try:
            if self._commit is None:
                places = self.marked(offsets)
                self._commit = self._start_call(self._consumer.commit, offsets=places, asynchronous=False)
                self._committing = dict(offsets)
            results = self._commit.result(timeout_s)
            self._commit = None
            for result in results:
                if result.error is not None:
                    raise KafkaException(result.error)
        except FutureTimeout:
            return False
        except KafkaException as error:
            self._commit = None
            code = error.args[0].code()
            if code in connection.TRANSIENT:
                connection.logger.warning("commit postponed: %s", error)
                return False
            if code not in REBALANCED:
                raise connection.explain(self._settings, "cannot commit offsets", error.args[0]) from None
            connection.logger.warning("another member has these partitions and reads their records again: %s", error)
            return True
        self._offsets.commit(self._committing)
        # An earlier commit that was still on its way leaves the offsets since then to be committed.
        return self._committing == dict(offsets)
