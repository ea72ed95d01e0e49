"""Lag on Apache Kafka."""

from __future__ import annotations

from confluent_kafka import Producer
from streams import PATIENCE_S, read_all

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics
from cifarctl.stream.source import Source


def test_transaction_markers_are_not_lag(apache_kafka_settings: KafkaSettings) -> None:
    topic = Topics.of(apache_kafka_settings.topic_prefix).images
    clients.ensure_topics(apache_kafka_settings, [topic])
    servers = apache_kafka_settings.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for number in range(30):
        producer.produce(topic, b"value", partition=number % apache_kafka_settings.partitions)
    producer.commit_transaction(PATIENCE_S)
    with Source(apache_kafka_settings, [topic]) as source:
        assert len(read_all(source)) == 30
        assert source.lag() == 0
