"""Looking at topics on every broker: tests for either tier, which says where `anywhere` is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from browsing import fill
from confluent_kafka import TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients


def test_a_topic_is_read_to_its_end_in_order(anywhere: KafkaSettings) -> None:
    topic = fill(anywhere, 3000)
    records = list(browse.read(anywhere, topic))
    assert sorted(int(record.key or b"") for record in records) == list(range(3000))
    for partition in range(3):
        offsets = [record.offset for record in records if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    first = records[0]
    assert first.topic == topic
    assert first.value == b"value " + (first.key or b"")
    assert first.headers == (("number", first.key), ("none", None))
    assert first.timestamp_ms > 1_700_000_000_000


def test_chosen_partitions_and_first_offsets(anywhere: KafkaSettings) -> None:
    topic = fill(anywhere, 300)
    whole = list(browse.read(anywhere, topic))
    some = list(browse.read(anywhere, topic, partitions=[0, 2], start={2: 7}))
    assert set(some) == {r for r in whole if r.partition == 0 or (r.partition == 2 and r.offset >= 7)}
    assert list(browse.read(anywhere, topic, partitions=[])) == []


def test_an_empty_topic_has_an_end(anywhere: KafkaSettings) -> None:
    assert list(browse.read(anywhere, fill(anywhere, 0))) == []


def test_a_reader_may_stop_early(anywhere: KafkaSettings) -> None:
    topic = fill(anywhere, 50)
    with closing(browse.read(anywhere, topic)) as records:
        assert next(records).topic == topic


def test_the_record_at_a_place(anywhere: KafkaSettings) -> None:
    topic = fill(anywhere, 100)
    there = browse.at(anywhere, topic, 1, 5)
    assert there is not None
    assert (there.partition, there.offset) == (1, 5)


@pytest.mark.parametrize(
    "look",
    [
        lambda settings, topic: list(browse.read(settings, topic)),
        lambda settings, topic: browse.bounds(settings, topic),
        lambda settings, topic: browse.committed(settings, topic, "some-group"),
    ],
)
def test_an_absent_topic_is_named_and_not_created(
    anywhere: KafkaSettings, look: Callable[[KafkaSettings, str], object]
) -> None:
    topic = f"{anywhere.topic_prefix}.nothing"
    with pytest.raises(BrokerError, match=topic):
        look(anywhere, topic)
    assert topic not in clients.partition_counts(anywhere)


def test_the_offsets_of_a_group_are_read_without_joining_it(anywhere: KafkaSettings) -> None:
    topic = fill(anywhere, 30)
    group = anywhere.group_id
    assert browse.committed(anywhere, topic, group) == {}
    client = clients.consumer(anywhere, group)
    client.commit(offsets=[TopicPartition(topic, 0, 4), TopicPartition(topic, 2, 1)], asynchronous=False)
    client.close()
    assert browse.committed(anywhere, topic, group) == {0: 4, 2: 1}
    list(browse.read(anywhere, topic))
    assert browse.committed(anywhere, topic, group) == {0: 4, 2: 1}
