"""Looking at topics of Apache Kafka from outside any group, whatever transactions have left in them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from browsing import fill
from browsing_anywhere import (  # noqa: F401  (tests that run here too)
    test_a_reader_may_stop_early,
    test_a_topic_is_read_to_its_end_in_order,
    test_an_absent_topic_is_named_and_not_created,
    test_an_empty_topic_has_an_end,
    test_chosen_partitions_and_first_offsets,
    test_the_offsets_of_a_group_are_read_without_joining_it,
    test_the_record_at_a_place,
)

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse
from cifarctl.stream.sender import Sender


@pytest.fixture(params=["apache_kafka_settings"])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    settings: KafkaSettings = request.getfixturevalue(request.param)
    return settings


def keys(records: Iterator[browse.Record]) -> list[int]:
    return [int(record.key or b"-1") for record in records]


def test_nothing_is_at_a_place_beyond_the_end(apache_kafka_settings: KafkaSettings) -> None:
    assert browse.at(apache_kafka_settings, fill(apache_kafka_settings, 100), 1, 10**9) is None


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
        with pytest.raises(BrokerError, match=f"{topic} has a transaction that has been open for 0.2 s"):
            browse.await_decided(settings, topic)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(browse.await_decided, settings, topic)
        sender.producer.commit_transaction(30)
        waiting.result(30)
    assert sorted(keys(browse.read(settings, topic))) == list(range(31))
