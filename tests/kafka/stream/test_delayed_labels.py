"""Reading the labels topic on Apache Kafka."""

from __future__ import annotations

import time

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from late_labels import CLASSES, gather
from processes import PATIENCE_S, until

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, tail
from cifarctl.stream.clients import Topics
from cifarctl.stream.label_records import encode_label, label_reader
from cifarctl.stream.sender import Sender


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(tail, "WAIT_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_reader_begins_where_labels_are_young_and_takes_new_partitions_in(
    apache_kafka_settings: KafkaSettings,
) -> None:
    own = apache_kafka_settings
    topic = Topics.of(own.topic_prefix).labels
    clients.ensure_topics(own, [topic])
    sender, hour_ago = Sender(own), int(time.time() * 1000) - 3_600_000
    for number in range(30):  # partition 2 holds old ones only
        id = f"old-{number}"
        sender.producer.produce(topic, encode_label(id, 1), id.encode(), partition=number % 3, timestamp=hour_ago)
    for number in range(20):
        id = f"young-{number}"
        sender.producer.produce(topic, encode_label(id, 2), id.encode(), partition=number % 2)
    sender.close(PATIENCE_S)
    with label_reader(own, classes=CLASSES, wait_s=600) as reader:
        assert gather(reader, 20) == {f"young-{number}": 2 for number in range(20)}
        admin = AdminClient({"bootstrap.servers": own.bootstrap_servers})
        for future in admin.create_partitions([NewPartitions(topic, 5)]).values():
            future.result()
        until(lambda: clients.partition_counts(own)[topic] == 5)
        sender = Sender(own)
        for partition in range(5):
            id = f"new-{partition}"
            sender.producer.produce(topic, encode_label(id, partition), id.encode(), partition=partition)
        sender.close(PATIENCE_S)
        assert gather(reader, 5) == {f"new-{partition}": partition for partition in range(5)}
