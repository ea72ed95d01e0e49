"""Reading, sending and committing against the embedded broker."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from streams import PATIENCE_S, read_all, settings_for, until

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.at_least_once import AtLeastOnceSink
from cifarctl.stream.clients import Topics
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.records import Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Commit
from cifarctl.stream.source import Source


@pytest.fixture
def topics(kafka: KafkaSettings) -> Topics:
    made = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [made.images, made.predictions, made.learner])
    return made


def fill(settings: KafkaSettings, topic: str, count: int, start: int = 0) -> None:
    sender = Sender(settings)
    for number in range(start, start + count):
        sender.send(topic, f"key-{number}".encode(), f"value-{number}".encode(), [("label", b"3"), ("none", None)])
    sender.close(PATIENCE_S)
    assert (sender.sent, sender.failed, sender.pending) == (count, 0, 0)


def committed(settings: KafkaSettings, topic: str) -> dict[int, int]:
    """Committed offset of each partition that has one."""
    client: Consumer = clients.consumer(settings, settings.group_id)
    try:
        places = [TopicPartition(topic, number) for number in range(settings.partitions)]
        found = client.committed(places, timeout=PATIENCE_S)
        return {place.partition: place.offset for place in found if place.offset >= 0}
    finally:
        client.close()


def values(records: list[Record]) -> list[bytes]:
    return sorted(record.value or b"" for record in records)


def test_what_arrives_while_nobody_reads_is_lag(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as source:
        read_all(source)
        assert source.lag() == 0
        fill(kafka, topics.images, 40, start=30)
        until(lambda: source.lag() == 40)
        assert len(source.read(1, PATIENCE_S)) == 1
        assert source.lag() == 39
        read_all(source)
        assert source.lag() == 0


@pytest.mark.parametrize("reads", [0, 5])
def test_a_group_that_was_left_while_joining_it_can_be_joined_again(
    kafka: KafkaSettings, topics: Topics, reads: int
) -> None:
    with Source(kafka, [topics.images]) as leaving:
        for _ in range(reads):
            leaving.read(1, 0.1)
    with Source(kafka, [topics.images]) as source:
        until(lambda: source.read(1, 0.1) or source.assigned)


def test_records_arrive_as_they_were_sent(kafka: KafkaSettings, topics: Topics) -> None:
    before = int(time.time() * 1000) - 1000
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as source:
        assert source.assigned == frozenset()
        assert not source.drained
        assert source.lag() is None
        records = read_all(source)
        assert source.assigned == {(topics.images, 0), (topics.images, 1), (topics.images, 2)}
        assert source.lag() == 0
        assert source.last_error is None
    assert values(records) == sorted(f"value-{number}".encode() for number in range(30))
    for record in records:
        assert record.key is not None
        assert record.key.replace(b"key", b"value") == record.value
        assert record.headers == (("label", b"3"), ("none", None))
        assert record.timestamp_ms >= before
    for number in range(3):
        offsets = [record.offset for record in records if record.partition == number]
        assert offsets == list(range(len(offsets)))


def test_reading_stops_at_the_limit_and_drained_follows_new_messages(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        first: list[Record] = []
        until(lambda: first.extend(source.read(4, 0.05)) or first)
        assert len(first) <= 4
        rest = read_all(source, batch=4)
        assert len(first) + len(rest) == 10
        fill(kafka, topics.images, 5, start=10)
        more: list[Record] = []
        until(lambda: more.extend(source.read(100, 0.05)) or len(more) == 5)
        assert not read_all(source)


def test_offsets_move_only_when_committed(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 20)
    with Source(kafka, [topics.images]) as source:
        sink = AtLeastOnceSink(kafka, source)
        records = read_all(source)
        assert not sink.due()
        for record in records:
            sink.send(topics.predictions, record.key, record.value)
        sink.track(records)
        assert committed(kafka, topics.images) == {}
        until(sink.due)
        assert sink.commit() is Commit.DONE
        assert not sink.due()
        assert sink.commits == 1
        expected = {
            number: max(record.offset for record in records if record.partition == number) + 1
            for number in {record.partition for record in records}
        }
        assert committed(kafka, topics.images) == expected
    with Source(kafka, [topics.predictions], group_id=f"{kafka.group_id}.reader") as reader:
        assert values(read_all(reader)) == values(records)


def test_what_was_not_committed_is_read_again(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 20)
    with Source(kafka, [topics.images]) as source:
        sink = AtLeastOnceSink(kafka, source)
        records = read_all(source)
        sink.track(records[:8])
        assert sink.commit() is Commit.DONE
        sink.track(records[8:])  # handled, but the process ends before the commit
    with Source(kafka, [topics.images]) as successor:
        again = read_all(successor)
    assert values(again) == values(records[8:])


def test_partitions_that_go_to_another_replica_are_committed_first(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as first:
        sink = AtLeastOnceSink(kafka, first)
        first.listen(lambda _: sink.commit(), lambda _: sink.undo())
        records = read_all(first)
        sink.track(records)
        with Source(kafka, [topics.images]) as second:
            taken: list[Record] = []

            def shared() -> bool:
                taken.extend(first.read(100, 0.02))
                taken.extend(second.read(100, 0.02))
                return bool(first.assigned) and bool(second.assigned) and first.drained and second.drained

            until(shared)
            assert len(first.assigned | second.assigned) == 3
            assert not first.assigned & second.assigned
    assert taken == []  # nothing was handled twice
    assert sum(committed(kafka, topics.images).values()) == 30


def test_no_acknowledgement_no_commit(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    """Predictions go to a broker that has gone: the offsets of the images stay where they are."""
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        records = read_all(source)
        with EmbeddedBroker() as elsewhere:
            sink = AtLeastOnceSink(moved(kafka, elsewhere), source)
        sink.send(topics.predictions, b"k", b"v")
        sink.track(records)
        assert sink.commit(timeout_s=0.2) is Commit.PENDING
        assert committed(kafka, topics.images) == {}


def test_a_failed_delivery_is_an_error_and_commits_nothing(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        records = read_all(source)
        with EmbeddedBroker() as elsewhere:
            sink = AtLeastOnceSink(moved(kafka, elsewhere, options={"message.timeout.ms": 50}), source)
        sink.send(topics.predictions, b"k", b"v")
        sink.track(records)
        with pytest.raises(BrokerError, match="not delivered"):
            sink.commit(timeout_s=PATIENCE_S)
        assert committed(kafka, topics.images) == {}


def moved(settings: KafkaSettings, broker: EmbeddedBroker, **changes: Any) -> KafkaSettings:
    """The same settings for another broker."""
    return settings.model_copy(update={"bootstrap_servers": broker.bootstrap_servers} | changes)


def test_a_full_queue_is_waited_for(kafka: KafkaSettings, topics: Topics) -> None:
    narrow = kafka.model_copy(update={"options": {"queue.buffering.max.messages": 5}})
    fill(narrow, topics.images, 200)
    with Source(kafka, [topics.images]) as source:
        assert len(read_all(source)) == 200


def test_events_of_the_client_are_not_pending_messages() -> None:
    with EmbeddedBroker() as running:
        settings = settings_for(running.bootstrap_servers)
        topic = Topics.of(settings.topic_prefix).images
        clients.ensure_topics(settings, [topic])
        sender = Sender(settings)
        sender.send(topic, b"key", b"value")
        assert sender.flush(PATIENCE_S)
        assert sender.pending == 0
        running.stop()
        until(lambda: len(sender.producer))  # the lost connection, not looked at yet
        assert sender.pending == 0
        sender.send(topic, b"key", b"value")
        assert sender.pending == 1


def test_a_message_that_is_too_large_names_the_topic(kafka: KafkaSettings, topics: Topics) -> None:
    sender = Sender(kafka)
    with pytest.raises(BrokerError, match=r"cannot send to .*images.*MSG_SIZE_TOO_LARGE"):
        sender.send(topics.images, None, b"x" * 2_000_000)
    assert sender.sent == 0


def test_header_names_that_are_not_utf8_do_not_stop_the_stream(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    foreign = pytest.importorskip("kafka", exc_type=ImportError)

    class Hostile(str):
        __slots__ = ()

        def encode(self, *_: object) -> bytes:
            return b"\xff\xfe"

    sender = foreign.KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    sender.send(topics.images, b"value", headers=[(Hostile("ab"), b"1")]).get(PATIENCE_S)
    sender.close()
    with Source(kafka, [topics.images]) as source:
        (record,) = read_all(source)
    assert (record.value, record.headers) == (b"value", (("\\xff\\xfe", b"1"),))


def test_a_broker_that_goes_away_is_waited_for() -> None:
    with EmbeddedBroker() as running:
        settings = settings_for(running.bootstrap_servers, session_timeout_ms=1500)
        topic = Topics.of(settings.topic_prefix).images
        clients.ensure_topics(settings, [topic])
        with Source(settings, [topic]) as source:
            sink = AtLeastOnceSink(settings, source)
            read_all(source)
            running.stop()
            until(lambda: source.read(10, 0.02) or source.last_error)
            assert not source.drained
            sink.track([Record(topic, 0, 0, -1, None, b"", ())])
            sink.send(topic, None, b"")
            assert sink.commit(timeout_s=0.2) is Commit.PENDING
            port = int(running.bootstrap_servers.rpartition(":")[2])
            with EmbeddedBroker(port):
                clients.ensure_topics(settings, [topic])
                until(lambda: not source.read(10, 0.02) and source.drained)
                assert source.last_error is None


def test_topics_are_created_once_with_the_configured_partitions(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    clients.ensure_topics(kafka, [topics.images, topics.learner])
    found = clients.producer(kafka).list_topics(timeout=PATIENCE_S).topics
    assert len(found[topics.images].partitions) == 3
    assert len(found[topics.learner].partitions) == 1


def test_a_learner_topic_of_several_partitions_is_refused(kafka: KafkaSettings) -> None:
    learner = Topics.of(kafka.topic_prefix).learner
    under_another_prefix = kafka.model_copy(update={"topic_prefix": "other"})
    clients.ensure_topics(under_another_prefix, [learner])
    with pytest.raises(BrokerError, match=r"3 partitions.*kafka\.topic_prefix"):
        clients.ensure_topics(kafka, [learner])


def test_a_broker_that_answers_passes_the_check(kafka: KafkaSettings) -> None:
    clients.check(kafka)
