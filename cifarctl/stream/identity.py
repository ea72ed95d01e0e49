"""Which topic an offset is of: a topic that is deleted and made anew has its old name and other messages.

A committed offset carries a `Mark` in its metadata: the topic's id (KIP-516) and what the group has passed over on
purpose. Whoever comes back to the offset can tell that the topic under it is another one. Offsets without a mark, of
earlier versions, of other tools or on brokers that keep no metadata, are taken as they are.
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
from cifarctl.stream import connection, limited
from cifarctl.stream.limited import Begin
from cifarctl.stream.records import Partition

Range: TypeAlias = tuple[int, int]

#: Seconds between two looks of a reader: what it answers of another topic until then may have to be answered again.
LOOK_INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 2.0
MARK_WAIT_S = 0.2  # for the marks of partitions that have just come, which a broker tells in a few milliseconds
#: Brokers keep 4,096 bytes of metadata (`offset.metadata.max.bytes`); a range takes at most 41.
MOST_RANGES = 80
NO_ID = "A" * 22  # what the client makes of a broker that has no topic ids: 16 bytes of 0, in base64


@dataclass(frozen=True)
class Mark:
    """What the metadata of a committed offset says.

    `topic_id` is None where it says nothing; `skipped` are the offsets, [first, end), that `serve --from` has passed
    over, in order and apart from each other.
    """

    topic_id: str | None = None
    skipped: tuple[Range, ...] = ()

    @classmethod
    def parse(cls, metadata: str | None) -> Mark:
        """Read it; what somebody else has written there is no mark."""
        try:
            body = orjson.loads(metadata or "")
            topic_id, skipped = body["topic_id"], tuple((int(first), int(end)) for first, end in body["skipped"])
        except (ValueError, TypeError, KeyError):
            return cls()
        return cls(topic_id if isinstance(topic_id, str) else None, skipped)

    def __str__(self) -> str:
        """The metadata; empty where there is nothing to say."""
        if self == Mark():
            return ""
        return orjson.dumps({"topic_id": self.topic_id, "skipped": self.skipped}).decode()

    def of_another(self, topic_id: str | None) -> bool:
        """Whether it was made of another topic than the one that has this id now; False where that is not known."""
        return self.topic_id is not None and topic_id is not None and self.topic_id != topic_id

    def moved(self, before: int, after: int, oldest: int) -> Mark:
        """The mark once the group is moved from one offset to another: what it jumps over is skipped.

        Ranges that have aged out, below `oldest`, and those that are to be read again are left out.
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
        return replace(self, skipped=tuple(joined[-MOST_RANGES:]))


def topic_ids(settings: KafkaSettings, topics: Iterable[str]) -> dict[str, str]:
    """The ids of those topics that are there and have one, as far as the broker answers in `kafka.timeout_s`.

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
        except KafkaException as error:  # absent just now, not permitted, or a broker that does not know the question
            connection.logger.info("id of %s: %s", topic, error)
            continue
        if topic_id != NO_ID:
            found[topic] = topic_id
    return found


class Watch:
    """Whether the topics that a reader reads are still those of its group's offsets.

    It asks in the background: about partitions that have just come at once, about all every `LOOK_INTERVAL_S`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        begin: Begin,
        committed: Callable[[list[TopicPartition]], list[TopicPartition]],
    ) -> None:
        """`committed` tells the group's offsets with their metadata; `begin` makes that call in a thread of its own."""
        self._settings, self._topics, self._begin, self._committed = settings, list(topics), begin, committed
        self._admin: AdminClient | None = None
        self._terms: dict[Partition, int] = {}  # of the partitions that are read here; changes with each assignment
        self._marks: dict[Partition, Mark] = {}
        self._asking: Future[dict[str, str]] | None = None  # for ids
        self._telling: Future[list[TopicPartition]] | None = None  # for marks
        self._asked: dict[Partition, int] = {}  # the terms of the partitions whose marks are being asked for
        self._changed: dict[Partition, str] = {}
        self._next = 0.0
        self._term = 0

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """They are read here from now on."""
        self._term += 1
        self._terms |= dict.fromkeys(partitions, self._term)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """They are not read here any more."""
        for partition in partitions:
            for known in (self._terms, self._marks, self._changed):
                known.pop(partition, None)

    def look(self) -> dict[Partition, str]:
        """The partitions whose topic is another one than that of the group's offsets, and its id now; never waits.

        Raises:
            KafkaException: the group's offsets cannot be read.
        """
        self._take()
        unmarked, now = self._unmarked(), time.monotonic()
        if self._telling is None and unmarked:
            self._asked = {partition: self._terms[partition] for partition in unmarked}
            self._telling = self._begin(self._committed, [TopicPartition(*partition) for partition in unmarked])
            self._next = now
        if self._asking is None and self._terms and now >= self._next:
            self._next = now + LOOK_INTERVAL_S
            self._asking = limited.begin(self._ids)
        return dict(self._changed)

    def accept(self, changed: Mapping[Partition, str]) -> None:
        """Go on with these partitions of another topic; what was skipped of the former one is forgotten."""
        for partition, topic_id in changed.items():
            self._changed.pop(partition, None)
            self._marks[partition] = Mark(topic_id)

    def marked(self, offsets: Mapping[Partition, int]) -> list[TopicPartition]:
        """`offsets` as they are to be committed.

        Raises:
            KafkaException: the marks are not known yet, or the topic is another one, which `look` tells.
        """
        if offsets.keys() & self._unmarked():
            self.look()
            asked: list[Future[Any]] = [each for each in (self._asking, self._telling) if each is not None]
            wait(asked, MARK_WAIT_S)
            self._take()
        if offsets.keys() & self._changed.keys():  # as if somebody else had them: nothing of it counts
            raise KafkaException(KafkaError(KafkaError._ASSIGNMENT_LOST, "the topic was made anew"))
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
        """Take in what was answered."""
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
            if self._terms.get(partition) == self._asked.get(partition):  # it has not gone and come again meanwhile
                self._marks[partition] = mark

    def _compare(self, ids: Mapping[str, str]) -> None:
        for partition, mark in self._marks.items():
            topic_id = ids.get(partition[0])
            if topic_id is not None and mark.of_another(topic_id):
                self._changed[partition] = topic_id
            elif topic_id is not None:
                self._marks[partition] = replace(mark, topic_id=topic_id)
