"""Moving a consumer group to another place of a topic, before anybody of it reads there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from datetime import datetime

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients, connection, limited
from cifarctl.stream.records import Partition

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BEGINNING, END = "beginning", "end"
FORMS = "beginning, end, a time such as 2026-01-31T12:00:00, an offset, or partition:offset[,partition:offset]"

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
        """Read what a person writes; a time without a zone is local.

        Raises:
            SettingsError: the text has none of the forms.
        """
        if text in (BEGINNING, END):
            return cls(word=text)
        if re.fullmatch(r"\d{1,18}", text):
            return cls(offset=int(text))
        if re.fullmatch(r"\d{1,9}:\d{1,18}(,\d{1,9}:\d{1,18})*", text):
            pairs = (pair.split(":") for pair in text.split(","))
            return cls(offsets={int(number): int(offset) for number, offset in pairs})
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise SettingsError(f"--from {text}: expected {FORMS}") from None
        return cls(time_ms=round(moment.timestamp() * 1000))


def move(settings: KafkaSettings, topic: str, start: Start) -> dict[int, int]:
    """Commit `start` for `kafka.group_id` and tell the offset of each partition; the others of a topic stay.

    Raises:
        BrokerError: no broker answers, the group has members, or there is no such partition or offset.
        SettingsError: librdkafka refuses an option.
    """
    client = clients.consumer(settings, settings.group_id)
    try:
        with connection.broker_errors(settings, f"cannot move the group {settings.group_id}"):
            numbers = sorted(client.list_topics(topic, timeout=settings.timeout_s).topics[topic].partitions)
            offsets = _offsets(client, settings, topic, numbers, start)
            places = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
            try:
                committing = limited.begin(client.commit, offsets=places, asynchronous=False)
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


def moment(text: str) -> int:
    """What a person means by a time or by a while ago (90s, 30m, 2h, 1d): epoch milliseconds.

    Raises:
        SettingsError: the text has none of the forms.
    """
    if (ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)) is not None:
        return round((time.time() - float(ago[1]) * SECONDS[ago[2]]) * 1000)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise SettingsError(f"--since {text}: expected 90s, 30m, 2h, 1d, or a time such as 2026-01-31T12:00") from None


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
