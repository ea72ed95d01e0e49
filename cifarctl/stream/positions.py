"""Moving a consumer group to another place of a topic, before anybody of it reads there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl import times
from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import background, browse, clients, connection, identity
from cifarctl.stream.identity import Mark
from cifarctl.stream.records import Partition

BEGINNING, END = "beginning", "end"
FORMS = f"beginning, end, an offset, partition:offset[,partition:offset], or a time: {times.FORMS} as @1769860800"

#: The group has members, and only those may commit for it.
OCCUPIED = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.NON_EMPTY_GROUP,
}


@dataclass(frozen=True)
class Start:
    """Where to begin: at a word, a time in epoch milliseconds, an offset of all partitions or of each named one."""

    word: str | None = None
    time_ms: int | None = None
    offset: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Start:
        """Read what a person writes: as in `times.parse`, but that a bare number is an offset.

        Raises:
            SettingsError: the text has none of the forms, or is a number that may well be meant as a time.
        """
        if text in (BEGINNING, END):
            return cls(word=text)
        if re.fullmatch(r"\d{1,18}", text):
            _refuse_ambiguous(text)
            return cls(offset=int(text))
        if re.fullmatch(r"offset:\d{1,18}", text):
            return cls(offset=int(text.removeprefix("offset:")))
        if re.fullmatch(r"\d{1,9}:\d{1,18}(,\d{1,9}:\d{1,18})*", text):
            return cls(offsets=_each_once(text))
        if re.fullmatch(r"[0-9.]+", text):
            raise SettingsError(f"--from {text}: expected {FORMS}")
        return cls(time_ms=times.parse(text, "--from", FORMS))


def _each_once(text: str) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for pair in text.split(","):
        number, offset = map(int, pair.split(":"))
        if number in offsets:
            raise SettingsError(f"--from {text}: partition {number} is named twice; give it one offset")
        offsets[number] = offset
    return offsets


def _refuse_ambiguous(number: str) -> None:
    if times.is_date(number):
        hint = f"Write {number[:4]}-{number[4:6]}-{number[6:]} for the time,"
    elif times.is_epoch(number):
        hint = f"Write @{number} for the time,"
    elif re.fullmatch("(19[7-9]|20[0-9])[0-9]{5}", number):
        hint = "There is no such date; write"
    else:
        return
    raise SettingsError(f"--from {number}: a time or an offset? {hint} offset:{number} for the offset")


def move(settings: KafkaSettings, topic: str, start: Start) -> dict[int, int]:
    """Commit `start` for `kafka.group_id` and tell the offset of each partition; the others of a topic stay.

    What the group jumps over is noted with the offset as skipped on purpose: `identity.Mark`.

    Raises:
        BrokerError: no broker answers, the group has members, or there is no such partition or offset.
        SettingsError: librdkafka refuses an option.
    """
    client = clients.consumer(settings, settings.group_id)
    try:
        with connection.broker_errors(settings, f"cannot move the group {settings.group_id}"):
            numbers = sorted(client.list_topics(topic, timeout=settings.timeout_s).topics[topic].partitions)
            offsets = _offsets(client, settings, topic, numbers, start)
            places = _marked(client, settings, topic, offsets)
            try:
                committing = background.start(client.commit, offsets=places, asynchronous=False)
                for result in committing.result(settings.timeout_s):
                    if result.error is not None:
                        raise KafkaException(result.error)
            except FutureTimeout:
                raise BrokerError(
                    f"cannot move the group {settings.group_id}: {settings.bootstrap_servers} does not answer; "
                    "check kafka.bootstrap_servers and try again"
                ) from None
            except KafkaException as error:
                if error.args[0].code() not in OCCUPIED:
                    raise
                raise BrokerError(
                    f"the group {settings.group_id} is being read by a running serve, so it cannot be moved: "
                    "end that one first, or take another group with --group"
                ) from None
            return offsets
    finally:
        client.close()


def _marked(client: Consumer, settings: KafkaSettings, topic: str, offsets: Mapping[int, int]) -> list[TopicPartition]:
    """`offsets` as they are to be committed; a group without a place would have begun at the oldest record."""
    ask = partial(browse.places_of, client, settings, topic, offsets)
    before = connection.patiently(ask, settings.timeout_s)
    topic_id = identity.topic_ids(settings, [topic]).get(topic)
    marked = []
    for number, (oldest, _) in browse.watermarks(client, settings, topic, offsets).items():
        place = before.get(number)
        if place is None or place.mark.of_another(topic_id):
            place = browse.Place(oldest, Mark())
        mark = replace(place.mark.moved(place.offset, offsets[number], oldest), topic_id=topic_id)
        marked.append(TopicPartition(topic, number, offsets[number], metadata=str(mark)))
    return marked


def since(settings: KafkaSettings, topics: Iterable[str], time_ms: int) -> dict[Partition, int]:
    """Where to begin so that nothing is missed that was produced at `time_ms` (epoch milliseconds) or later.

    On the embedded broker, which finds no times, that is the beginning.

    Raises:
        BrokerError: no broker answers, or there is no such topic.
        SettingsError: librdkafka refuses an option.
    """
    if clients.check(settings).embedded:
        counts = clients.partition_counts(settings)
        return {(topic, number): 0 for topic in topics for number in range(counts[topic])}
    client = clients.consumer(settings, settings.group_id)
    try:
        found: dict[Partition, int] = {}
        with connection.broker_errors(settings, "cannot look up a time"):
            for topic in topics:
                numbers = sorted(client.list_topics(topic, timeout=settings.timeout_s).topics[topic].partitions)
                offsets = _offsets(client, settings, topic, numbers, Start(time_ms=time_ms))
                found |= {(topic, number): offset for number, offset in offsets.items()}
        return found
    finally:
        client.close()


def _offsets(client: Consumer, settings: KafkaSettings, topic: str, numbers: list[int], start: Start) -> dict[int, int]:
    bounds = browse.watermarks(client, settings, topic, numbers)
    if start.word is not None:
        return {number: low if start.word == BEGINNING else high for number, (low, high) in bounds.items()}
    if start.time_ms is not None:
        wanted = [TopicPartition(topic, number, start.time_ms) for number in numbers]
        found = client.offsets_for_times(wanted, timeout=settings.timeout_s)
        return {place.partition: place.offset if place.offset >= 0 else bounds[place.partition][1] for place in found}
    chosen = start.offsets or dict.fromkeys(numbers, start.offset or 0)
    for number, offset in chosen.items():
        low, high = bounds.get(number, (OFFSET_BEGINNING, OFFSET_BEGINNING))
        if not low <= offset <= high:
            there = f"it holds {low} to {high}" if number in bounds else "there is no such partition"
            raise BrokerError(f"--from: {topic}[{number}] cannot be read from offset {offset}: {there}")
    return dict(chosen)
