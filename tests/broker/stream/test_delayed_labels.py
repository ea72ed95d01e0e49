"""Reading the labels topic on the embedded broker."""

from __future__ import annotations

import pytest
from confluent_kafka import TopicPartition
from late_labels import CLASSES, gather, send_labels
from processes import PATIENCE_S, until

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, tail
from cifarctl.stream.clients import Topics
from cifarctl.stream.label_records import label_reader


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(tail, "WAIT_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_reader_gets_all_labels_and_leaves_no_trace(kafka: KafkaSettings) -> None:
    first = {f"a-{n}": n % 10 for n in range(50)}
    send_labels(kafka, first)
    send_labels(kafka, [(b"k", b"no label"), (b"k", b'{"id": "bad", "label": 77}')])
    with (
        label_reader(kafka, classes=CLASSES, wait_s=600) as reader,
        label_reader(kafka, classes=CLASSES, wait_s=600) as two,
    ):
        assert gather(reader, 50) == first
        second = {f"b-{n}": n % 10 for n in range(30)}
        send_labels(kafka, second)
        assert gather(reader, 30) == second
        assert gather(two, 80) == first | second
        assert reader.last_error is None
    client = clients.consumer(kafka, kafka.group_id)
    try:
        places = [TopicPartition(Topics.of(kafka.topic_prefix).labels, number) for number in range(kafka.partitions)]
        assert {place.offset for place in client.committed(places, timeout=PATIENCE_S)} == {-1001}
    finally:
        client.close()


@pytest.mark.usefixtures("quick")
def test_a_topic_that_is_absent_is_not_created_but_found_later(kafka: KafkaSettings) -> None:
    topic = Topics.of(kafka.topic_prefix).labels
    looks = 0
    with label_reader(kafka, classes=CLASSES, wait_s=600) as reader:
        look = reader._look

        def counted() -> None:
            nonlocal looks
            look()
            looks += 1

        reader._look = counted  # type: ignore[method-assign]
        until(lambda: looks >= 3)
        assert topic not in clients.partition_counts(kafka)
        assert reader.read() == []
        send_labels(kafka, {"a": 1})
        assert gather(reader, 1) == {"a": 1}


@pytest.mark.usefixtures("quick")
def test_a_broker_that_is_away_is_not_an_error() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with label_reader(nowhere, classes=CLASSES, wait_s=600) as reader:
        until(lambda: reader.last_error)
        assert reader.read() == []
