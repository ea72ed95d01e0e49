"""A topic of answers that is deleted while serve runs is named, with what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka.admin import AdminClient
from fixtures_kafka import own_settings, require_kafka
from processes import Flow, Site, committed, until

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.sender import Sender


@pytest.fixture(scope="module")
def strict() -> Iterator[ApacheKafka]:
    """A node that makes no topic by itself."""
    require_kafka()
    with ApacheKafka(properties={"auto.create.topics.enable": "false"}) as kafka:
        yield kafka


@pytest.fixture
def kafka(strict: ApacheKafka) -> KafkaSettings:
    return own_settings(strict, partitions=1)


def send(site: Site, value: bytes) -> None:
    sender = Sender(site.kafka)
    for number in range(20):
        sender.send(site.topics.images, b"%d" % number, value)
    sender.close(10)


def keep_sending(site: Site, value: bytes, stop: threading.Event) -> Iterator[int]:
    """What comes while the broker is still deleting may be answered yet."""
    while not stop.is_set():
        send(site, value)
        yield 20
        stop.wait(0.5)


@pytest.mark.parametrize(("name", "delivery"), [("dead_letters", "exactly-once"), ("predictions", "at-least-once")])
def test_a_topic_of_answers_that_is_deleted_is_named(site: Site, name: str, delivery: str) -> None:
    value = bytes(3072) if name == "predictions" else b"bad"
    clients.ensure_topics(site.kafka, [site.topics.images])
    send(site, value)
    serving = site.serve(kafka__delivery=delivery, kafka__timeout_s=1)
    serving.until(lambda: committed(site) == 20)
    topic = getattr(site.topics, name)
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    for future in admin.delete_topics([topic]).values():
        future.result()
    until(lambda: topic not in clients.partition_counts(site.kafka))
    producing = Flow(lambda stop: keep_sending(site, value, stop))
    with pytest.raises(BrokerError, match=rf"the topic {topic} .*does not exist .*; if it was deleted, start again"):
        serving.result()
    producing.finish()
    result = site.serve(max_messages=20, kafka__delivery=delivery).result()
    assert result.predicted + result.dead_lettered == 20
