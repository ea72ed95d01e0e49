"""Looking at topics from outside any group: to their present end, whatever transactions have left in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.sender import Sender

ON_EMBEDDED = pytest.param("kafka", marks=pytest.mark.broker)
ON_APACHE = pytest.param("apache_kafka_settings", marks=pytest.mark.apache)


@pytest.fixture(params=[ON_EMBEDDED, ON_APACHE])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    """A place on each broker in turn."""
    settings: KafkaSettings = request.getfixturevalue(request.param)
    return settings


def fill(settings: KafkaSettings, count: int, topic: str = "images") -> str:
    """A topic of three partitions with `count` messages, keyed by their numbers."""
    name = getattr(clients.Topics.of(settings.topic_prefix), topic)
    clients.ensure_topics(settings, [name])
    sender = Sender(settings)
    for number in range(count):
        sender.send(name, str(number).encode(), b"value %d" % number, [("number", b"%d" % number), ("none", None)])
    sender.close(10)
    assert isinstance(name, str)
    return name


def keys(records: Iterator[browse.Record]) -> list[int]:
    return [int(record.key or b"-1") for record in records]


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


@pytest.mark.apache
def test_nothing_is_at_a_place_beyond_the_end(apache_kafka_settings: KafkaSettings) -> None:
    assert browse.at(apache_kafka_settings, fill(apache_kafka_settings, 100), 1, 10**9) is None


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


@pytest.mark.parametrize(
    "look",
    [
        lambda settings: list(browse.read(settings, "t", partitions=[0])),
        lambda settings: list(browse.read(settings, "t")),
        lambda settings: browse.bounds(settings, "t"),
    ],
)
def test_a_broker_that_is_not_there_is_an_error_in_time(look: Callable[[KafkaSettings], object]) -> None:
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(BrokerError, match=r"kafka\.bootstrap_servers"):
        look(nobody)


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


@pytest.mark.apache
def test_aborted_and_open_transactions_are_seen_only_by_who_asks(
    apache_kafka_settings: KafkaSettings,
) -> None:
    settings = apache_kafka_settings
    topic = fill(settings, 30)
    sender = Sender(settings, transactional_id=f"{settings.topic_prefix}.test")
    producer = sender.producer
    producer.init_transactions(30)
    for numbers, end in (((100, 130), producer.commit_transaction), ((200, 230), producer.abort_transaction)):
        producer.begin_transaction()
        for number in range(*numbers):
            sender.enqueue(topic, str(number).encode(), b"")
        assert sender.flush(10)
        end(30)
    producer.begin_transaction()
    for number in range(300, 330):
        sender.enqueue(topic, str(number).encode(), b"")
    assert sender.flush(10)

    committed = [*range(30), *range(100, 130)]
    everything = [*committed, *range(200, 230), *range(300, 330)]
    assert sorted(keys(browse.read(settings, topic))) == committed
    assert sorted(keys(browse.read(settings, topic, isolation="read_uncommitted"))) == everything
    marks = 2 * 3  # what the commit and the abort have left, one in each partition
    ends: list[tuple[browse.Isolation, int]] = [
        ("read_uncommitted", len(everything)),
        ("read_committed", len(everything) - 30),
    ]
    for isolation, present in ends:
        bounds = browse.bounds(settings, topic, isolation=isolation)
        assert sorted(bounds) == [0, 1, 2]
        assert all(low == 0 for low, _ in bounds.values())
        assert sum(high for _, high in bounds.values()) == present + marks
    producer.abort_transaction(30)


@pytest.mark.apache
def test_an_open_transaction_is_waited_for(
    apache_kafka_settings: KafkaSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = apache_kafka_settings
    topic = fill(settings, 30)
    browse.await_decided(settings, topic)
    sender = Sender(settings, transactional_id=f"{settings.topic_prefix}.test")
    sender.producer.init_transactions(30)
    sender.producer.begin_transaction()
    sender.enqueue(topic, b"30", b"")
    assert sender.flush(10)
    with monkeypatch.context() as patch:
        patch.setattr(browse, "MAX_OPEN_S", 0.2)
        with pytest.raises(BrokerError, match=f"{topic} holds a transaction that has been open for 0.2 s"):
            browse.await_decided(settings, topic)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(browse.await_decided, settings, topic)
        sender.producer.commit_transaction(30)
        waiting.result(30)
    assert sorted(keys(browse.read(settings, topic))) == list(range(31))


@pytest.mark.broker
def test_the_embedded_broker_has_no_transactions_to_wait_for(kafka: KafkaSettings) -> None:
    browse.await_decided(kafka, fill(kafka, 30))
