"""Identify the topic an offset belongs to: deleted and created again, it keeps its name but not its messages.

A committed offset carries a `Mark` in its metadata: the topic's id (KIP-516) and the offsets that the group has skipped
on purpose. The id shows when the topic has been replaced. Offsets without a mark (from earlier versions, from other
tools, or on brokers that keep no metadata) are accepted unchecked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import orjson
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from cifarctl.settings import KafkaSettings
from cifarctl.stream import background, connection
from cifarctl.stream.background import StartCall
from cifarctl.stream.records import Partition

Range: TypeAlias = tuple[int, int]

#: Seconds between two checks: answers to a replaced topic until then may have to be given again.
LOOK_INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 2.0
MARK_WAIT_S = 0.2  # for the marks of new partitions, which a broker returns in a few milliseconds
#: Brokers keep 4,096 bytes of metadata (`offset.metadata.max.bytes`); a range takes at most 41.
MAX_RANGES = 80
NO_ID = "A" * 22  # from a broker without topic ids: 16 zero bytes in base64


@dataclass(frozen=True)
class Mark:
    """The metadata of a committed offset.

    `topic_id` is None if unknown; `skipped` are the ranges of offsets, [first, end), that `serve --from` has skipped,
    sorted and disjoint.
    """

    topic_id: str | None = None
    skipped: tuple[Range, ...] = ()

    @classmethod
    def parse(cls, metadata: str | None) -> Mark:
        """Read the metadata; an empty mark if another program has written it."""
        try:
            body = orjson.loads(metadata or "")
            topic_id, skipped = body["topic_id"], tuple((int(first), int(end)) for first, end in body["skipped"])
        except (ValueError, TypeError, KeyError):
            return cls()
        return cls(topic_id if isinstance(topic_id, str) else None, skipped)

    def __str__(self) -> str:
        """The metadata; empty for an empty mark."""
        if self == Mark():
            return ""
        return orjson.dumps({"topic_id": self.topic_id, "skipped": self.skipped}).decode()

    def of_another(self, topic_id: str | None) -> bool:
        """Whether the mark belongs to another topic than the one with this id; False if either id is unknown."""
        return self.topic_id is not None and topic_id is not None and self.topic_id != topic_id

    def moved(self, before: int, after: int, oldest: int) -> Mark:
        """The mark after the group is moved from offset `before` to `after`: the range in between is skipped.

        Ranges below `oldest`, which have aged out, and ranges that will be read again are left out.
        """
        ranges = [(first, min(end, after)) for first, end in self.skipped if end > oldest and first < after]
        if after > before:
            ranges.append((before, after))
        joined: list[Range] = []
        for first, end in sorted(ranges):
            if joined and first <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((first, end))
        return replace(self, skipped=tuple(joined[-MAX_RANGES:]))


def topic_ids(settings: KafkaSettings, topics: Iterable[str]) -> dict[str, str]:
    """The ids of the topics that exist and have one, if the broker answers within `kafka.timeout_s`.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    return _ids(connection.create(AdminClient, settings, {}, None), topics, settings.timeout_s)


def _ids(admin: AdminClient, topics: Iterable[str], timeout_s: float) -> dict[str, str]:
    found: dict[str, str] = {}
    asked = admin.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_s)
    for topic, future in asked.items():
        try:
            topic_id = str(future.result().topic_id)
        except KafkaException as error:  # absent, not permitted, or not supported by the broker
            connection.logger.info("id of %s: %s", topic, error)
            continue
        if topic_id != NO_ID:
            found[topic] = topic_id
    return found


class TopicWatch:
    """Whether the topics being read are still those that the group's offsets belong to.

    It asks in the background: about new partitions at once, about all of them every `LOOK_INTERVAL_S`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        start_call: StartCall,
        committed: Callable[[list[TopicPartition]], list[TopicPartition]],
    ) -> None:
        """`committed` returns the group's offsets with their metadata; `start_call` calls it in a thread of its own."""
        self._settings, self._topics, self._start_call, self._committed = settings, list(topics), start_call, committed
        self._admin: AdminClient | None = None
        self._terms: dict[Partition, int] = {}  # of assigned partitions; changes with each assignment
        self._marks: dict[Partition, Mark] = {}
        self._asking: Future[dict[str, str]] | None = None  # for ids
        self._telling: Future[list[TopicPartition]] | None = None  # for marks
        self._asked: dict[Partition, int] = {}  # terms of the partitions whose marks are being looked up
        self._changed: dict[Partition, str] = {}
        self._next = 0.0
        self._term = 0

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Add partitions that are read here from now on."""
        self._term += 1
        self._terms |= dict.fromkeys(partitions, self._term)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop partitions that are not read here any more."""
        for partition in partitions:
            for known in (self._terms, self._marks, self._changed):
                known.pop(partition, None)

    def look(self) -> dict[Partition, str]:
        """The partitions whose topic has been replaced, with its new id; never waits.

        Raises:
            KafkaException: the group's offsets cannot be read.
        """
        self._take()
        unmarked, now = self._unmarked(), time.monotonic()
        if self._telling is None and unmarked:
            self._asked = {partition: self._terms[partition] for partition in unmarked}
            self._telling = self._start_call(self._committed, [TopicPartition(*partition) for partition in unmarked])
            self._next = now
        if self._asking is None and self._terms and now >= self._next:
            self._next = now + LOOK_INTERVAL_S
            self._asking = background.start(self._ids)
        return dict(self._changed)

    def accept(self, changed: Mapping[Partition, str]) -> None:
        """Continue with these partitions of new topics; the skipped ranges of the old ones are forgotten."""
        for partition, topic_id in changed.items():
            self._changed.pop(partition, None)
            self._marks[partition] = Mark(topic_id)

    def marked(self, offsets: Mapping[Partition, int]) -> list[TopicPartition]:
        """`offsets` ready to commit, each with its mark.

        Raises:
            KafkaException: the marks are not known yet, or the topic has been replaced, which `look` reports.
        """
        if offsets.keys() & self._unmarked():
            self.look()
            asked: list[Future[Any]] = [each for each in (self._asking, self._telling) if each is not None]
            wait(asked, MARK_WAIT_S)
            self._take()
        if offsets.keys() & self._changed.keys():  # as if reassigned to another member: their answers do not count
            raise KafkaException(KafkaError(KafkaError._ASSIGNMENT_LOST, "the topic was deleted and created again"))
        if offsets.keys() & self._unmarked():
            raise KafkaException(KafkaError(KafkaError._IN_PROGRESS, "the group's offsets are being looked up"))
        marks = {partition: str(self._marks.get(partition, Mark())) for partition in offsets}
        return [TopicPartition(*each, offset, metadata=marks[each]) for each, offset in offsets.items()]

    def _unmarked(self) -> set[Partition]:
        return self._terms.keys() - self._marks.keys()

    def _ids(self) -> dict[str, str]:
        if self._admin is None:
            self._admin = connection.create(AdminClient, self._settings, {}, None)
        return _ids(self._admin, self._topics, min(self._settings.timeout_s, LOOK_TIMEOUT_S))

    def _take(self) -> None:
        """Take in the answers that have come."""
        if self._telling is not None and self._telling.done():
            telling, self._telling = self._telling, None
            try:
                self._mark(telling.result())
            except KafkaException as error:
                if error.args[0].code() not in connection.TRANSIENT | {KafkaError.UNKNOWN_TOPIC_OR_PART}:
                    raise
        if self._asking is not None and self._asking.done():
            asking, self._asking = self._asking, None
            self._compare(asking.result())

    def _mark(self, found: Iterable[TopicPartition]) -> None:
        marks: dict[Partition, Mark] = {}
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
            marks[place.topic, place.partition] = Mark.parse(place.metadata)
        for partition, mark in marks.items():
            if self._terms.get(partition) == self._asked.get(partition):  # not assigned anew meanwhile
                self._marks[partition] = mark

    def _compare(self, ids: Mapping[str, str]) -> None:
        for partition, mark in self._marks.items():
            topic_id = ids.get(partition[0])
            if topic_id is not None and mark.of_another(topic_id):
                self._changed[partition] = topic_id
            elif topic_id is not None:
                self._marks[partition] = replace(mark, topic_id=topic_id)
