"""What is odd about the topics that are to be read: nobody has ever written there, or others answer the same images."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec  # admin has it too, but not for type checkers

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection

T = TypeVar("T")

LONGEST_S = 2.0  # for all questions together; what is not answered by then is not said
MOST_GROUPS = 100  # that are asked about
NAMED = 5  # groups or prefixes in a sentence
LEARNERS = (".learner", ".active-learner")  # groups of learners, which answer nothing


class TopicCheck:
    """Asks the broker once, in a thread of its own: a context manager, whose `news` nobody has to wait for.

    A question that the broker does not know or does not permit is passed over.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._topic = clients.Topics.of(settings.topic_prefix).images
        self._found: list[str] = []
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def __enter__(self) -> TopicCheck:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it alone: it ends by itself, and may be waiting for the broker."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be found."""
        return not self._thread.is_alive() and not self._found

    def news(self) -> Iterator[str]:
        """What has been found since the last call; never waits."""
        while self._found:
            yield self._found.pop(0)

    def _run(self) -> None:
        self._deadline = time.monotonic() + LONGEST_S
        try:
            admin: AdminClient = connection.create(AdminClient, self._settings, {}, None)
            cluster = admin.list_topics(timeout=LONGEST_S)
            numbers = sorted(cluster.topics[self._topic].partitions) if self._topic in cluster.topics else []
            if numbers and not self._written(admin, numbers):
                self._found.append(self._unwritten(cluster.topics))
            if cluster.cluster_id != clients.EMBEDDED_CLUSTER:  # which lists no groups
                self._found += self._others(admin, numbers)
        except (KafkaException, FutureTimeout) as error:
            connection.logger.info("looking at %s: %s", self._topic, error)

    def _written(self, admin: AdminClient, numbers: Iterable[int]) -> bool:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(self._topic, number): latest for number in numbers}
        found = admin.list_offsets(asked, request_timeout=LONGEST_S)
        return any(self._answer(future).offset > 0 for future in found.values())

    def _unwritten(self, topics: Iterable[str]) -> str:
        prefixes = [name.removesuffix(".images") for name in topics if name.endswith(".images") and name != self._topic]
        near = difflib.get_close_matches(self._settings.topic_prefix, prefixes, NAMED, cutoff=0.0)
        there = f" (there are also the prefixes {_list(near)})" if near else ""
        return (
            f"nobody has ever written to {self._topic}: unless its producer is still to come, check kafka.topic_prefix"
            f"{there}"
        )

    def _others(self, admin: AdminClient, numbers: list[int]) -> Iterator[str]:
        """Other groups that answer the same images, by what can be known: whoever reads them."""
        listed = self._answer(admin.list_consumer_groups(request_timeout=LONGEST_S)).valid
        own = self._settings.group_id
        groups = sorted({found.group_id for found in listed if not found.group_id.endswith(LEARNERS)} - {own})
        if not groups:
            return
        groups = groups[:MOST_GROUPS]
        reading = [group for group, topics in self._read_by(admin, groups) if self._topic in topics]
        if reading:
            yield (
                f"{_list(reading)} {'reads' if len(reading) == 1 else 'read'} {self._topic} too, beside this group "
                f"({own}): where that is a serve, each image is answered twice; set the same kafka.group_id to share "
                "the work, or another kafka.topic_prefix"
            )
        past = [group for group in self._committed(admin, [own, *groups], numbers) if group not in reading]
        if past and own not in past:
            yield (
                f"{_list(past)} {'has' if len(past) == 1 else 'have'} read {self._topic} before, and this group "
                f"({own}) is new: what a serve has answered there is answered again; set kafka.group_id to go on from "
                "there"
            )

    def _read_by(self, admin: AdminClient, groups: list[str]) -> Iterator[tuple[str, set[str]]]:
        """Each of the groups that has members, and the topics that these are assigned."""
        for group, future in admin.describe_consumer_groups(groups, request_timeout=LONGEST_S).items():
            with suppress(KafkaException):  # not permitted
                members = self._answer(future).members
                places = [
                    place for member in members if member.assignment for place in member.assignment.topic_partitions
                ]
                yield group, {place.topic for place in places}

    def _committed(self, admin: AdminClient, groups: list[str], numbers: list[int]) -> Iterator[str]:
        """Those of the groups that have committed anything of the images."""
        asked: dict[str, Future[ConsumerGroupTopicPartitions]] = {}
        for group in groups:
            places = [TopicPartition(self._topic, number) for number in numbers]
            question = [ConsumerGroupTopicPartitions(group, places)]
            asked |= admin.list_consumer_group_offsets(question, request_timeout=LONGEST_S)
        for group, future in asked.items():
            with suppress(KafkaException):
                if any(place.offset > 0 for place in self._answer(future).topic_partitions or []):
                    yield group

    def _answer(self, future: Future[T]) -> T:
        return future.result(max(0.0, self._deadline - time.monotonic()))


def _list(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
