"""Reading topics without joining a group or committing anything."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource  # admin has it too, but not for type checkers

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection
from cifarctl.stream.identity import Mark
from cifarctl.stream.records import Record, record_of

Isolation: TypeAlias = Literal["read_committed", "read_uncommitted"]

BATCH = 1000  # records
SLICE_S = 0.1  # Python handles signals only between waits
#: The transaction of a killed writer stays open for `options.TRANSACTION_TIMEOUT_MS`, and then until the broker checks,
#: every 10 s.
MAX_OPEN_S = 30.0
#: librdkafka reconnects by itself after these; only a silence of `kafka.timeout_s` is an error.
_TRANSIENT = connection.UNREACHABLE - {KafkaError._TIMED_OUT}


def read(
    settings: KafkaSettings,
    topic: str,
    *,
    isolation: Isolation = "read_committed",
    partitions: Iterable[int] | None = None,
    start: Mapping[int, int] | None = None,
) -> Generator[Record, None, None]:
    """The records of a topic up to its current end, in order within each partition; a stream, with few in memory.

    The end of a partition is where the broker first reports it (with read_committed the first record of an open
    transaction), not the high watermark, which counts control records and is wrong on the embedded broker.

    Args:
        settings: connection.
        topic: its name.
        isolation: read_uncommitted includes the records of aborted and open transactions.
        partitions: only these; default all.
        start: first offsets of partitions; without one, or if it has aged out, reading starts with the oldest record.

    Raises:
        BrokerError: no such topic, no permission, or no answer within `kafka.timeout_s`.
        SettingsError: librdkafka refuses an option.
    """
    # The group that the user has rights for; assigning partitions does not join it.
    options = {"isolation.level": isolation, "auto.offset.reset": "earliest"}
    with _consumer(settings, settings.group_id, f"cannot read {topic}", **options) as client:
        numbers = _partitions(client, settings, topic) if partitions is None else list(partitions)
        first = start or {}
        unread = set(numbers)
        client.assign([TopicPartition(topic, number, first.get(number, OFFSET_BEGINNING)) for number in numbers])
        heard = time.monotonic()
        last_error: KafkaError | None = None
        while unread:
            for message in client.consume(BATCH, SLICE_S):
                error = message.error()
                if error is None:
                    heard = time.monotonic()
                    if message.partition() in unread:  # records after the reported end came later
                        yield record_of(message)
                        heard = time.monotonic()  # the caller may have taken long
                elif error.code() == KafkaError._PARTITION_EOF:
                    heard = time.monotonic()
                    unread.discard(message.partition() or 0)
                elif error.code() in _TRANSIENT:
                    last_error = error
                else:
                    raise KafkaException(error)
            if time.monotonic() - heard > settings.timeout_s:
                raise KafkaException(last_error or KafkaError(KafkaError._TIMED_OUT))


def at(settings: KafkaSettings, topic: str, partition: int, offset: int) -> Record | None:
    """The committed record at one offset; None if there is none, or no longer.

    Raises:
        BrokerError: as `read`.
    """
    with closing(read(settings, topic, partitions=[partition], start={partition: offset})) as records:
        record = next(records, None)
    return record if record is not None and record.offset == offset else None


def bounds(
    settings: KafkaSettings, topic: str, *, isolation: Isolation = "read_uncommitted"
) -> dict[int, tuple[int, int]]:
    """(first offset, offset after the last) of each partition, including control records.

    With read_committed the end is the first record of an open transaction. Wrong on the embedded broker.

    Raises:
        BrokerError: no such topic, no permission, or no answer.
    """
    options = {"isolation.level": isolation}
    with _consumer(settings, settings.group_id, f"cannot read the bounds of {topic}", **options) as client:
        return watermarks(client, settings, topic, _partitions(client, settings, topic))


def watermarks(
    client: Consumer, settings: KafkaSettings, topic: str, numbers: Iterable[int]
) -> dict[int, tuple[int, int]]:
    """As `bounds`, with an existing client.

    Raises:
        KafkaException: no answer.
    """

    def ask(number: int) -> tuple[int, int]:
        found: tuple[int, int] | None = client.get_watermark_offsets(
            TopicPartition(topic, number), settings.timeout_s, cached=False
        )
        if found is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return found

    return {number: connection.patiently(partial(ask, number), settings.timeout_s) for number in numbers}


def await_decided(settings: KafkaSettings, topic: str) -> None:
    """Wait until all current records of `topic` are committed or aborted, so that `read` does not miss any.

    The broker confirms a transaction to its writer before every partition shows it. Returns at once on the embedded
    broker, which has no transactions.

    Raises:
        BrokerError: no such topic, no permission, no answer, or a transaction stays open for half a minute.
    """
    if clients.check(settings).embedded:
        return
    ends = {number: high for number, (_, high) in bounds(settings, topic).items()}
    deadline = time.monotonic() + MAX_OPEN_S
    while any(
        decided < ends.get(number, 0)
        for number, (_, decided) in bounds(settings, topic, isolation="read_committed").items()
    ):
        if time.monotonic() >= deadline:
            raise BrokerError(
                f"{topic} has a transaction that has been open for {MAX_OPEN_S:g} s: find its owner with "
                "`kafka-transactions.sh find-hanging`, and try again when it has ended"
            )
        time.sleep(SLICE_S)


class Place(NamedTuple):
    """The next offset that a group will read, and its mark."""

    offset: int
    mark: Mark


def committed(settings: KafkaSettings, topic: str, group: str, patience_s: float | None = None) -> dict[int, int]:
    """The offset that `group` has committed for each partition, if any; otherwise as `places`."""
    return {number: place.offset for number, place in places(settings, topic, group, patience_s).items()}


def places(settings: KafkaSettings, topic: str, group: str, patience_s: float | None = None) -> dict[int, Place]:
    """The offset that `group` has committed for each partition, if any, with its mark.

    Waits up to `patience_s` seconds (default: `kafka.timeout_s`) while the coordinator moves or the offsets are in an
    open transaction.

    Raises:
        BrokerError: no such topic, no permission, or no answer.
    """
    with _consumer(settings, group, f"cannot read the offsets of {group}") as client:
        numbers = _partitions(client, settings, topic)
        ask = partial(places_of, client, settings, topic, numbers)
        return connection.patiently(ask, settings.timeout_s if patience_s is None else patience_s)


def places_of(client: Consumer, settings: KafkaSettings, topic: str, numbers: Iterable[int]) -> dict[int, Place]:
    """As `places`, for the group of an existing client.

    Raises:
        KafkaException: no answer.
    """
    found = client.committed([TopicPartition(topic, number) for number in numbers], settings.timeout_s)
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return {place.partition: Place(place.offset, Mark.parse(place.metadata)) for place in found if place.offset >= 0}


def compacted(settings: KafkaSettings, topics: Iterable[str]) -> dict[str, bool]:
    """Whether each of `topics` is compacted: its `cleanup.policy` includes compact.

    Topics that the broker does not describe, for example for lack of the right DescribeConfigs, are left out.
    """
    names = {ConfigResource(ConfigResource.Type.TOPIC, topic): topic for topic in topics}
    admin = connection.create(AdminClient, settings, {}, None)
    found: dict[str, bool] = {}
    for resource, future in admin.describe_configs(list(names), request_timeout=settings.timeout_s).items():
        try:
            found[names[resource]] = "compact" in future.result()["cleanup.policy"].value
        except (KafkaException, KeyError) as error:
            connection.logger.info("cleanup.policy of %s: %s", names[resource], error)
    return found


@contextmanager
def _consumer(settings: KafkaSettings, group: str, doing: str, **options: str) -> Iterator[Consumer]:
    """A consumer; Kafka's exceptions become BrokerError, with the most telling connection error as the cause."""
    seen: list[KafkaError] = []
    client = clients.consumer(settings, group, on_error=seen.append, **options)
    try:
        yield client
    except KafkaException as error:
        raise connection.explain(settings, doing, connection.most_telling(seen, error.args[0])) from None
    finally:
        client.close()


def _partitions(client: Consumer, settings: KafkaSettings, topic: str) -> list[int]:
    found = client.list_topics(topic, timeout=settings.timeout_s).topics[topic]
    if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise KafkaException(found.error)
    if not found.partitions:
        raise BrokerError(
            f"{settings.bootstrap_servers} has no topic {topic}: check kafka.topic_prefix; "
            "`cifarctl serve` and `cifarctl produce` create topics"
        )
    return sorted(found.partitions)
