"""A client that gives nothing although there is something to read, on Apache Kafka."""

from __future__ import annotations

import time

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka import TopicPartition
from fixtures_kafka import own_settings
from processes import Site, until

from cifarctl import events
from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, stall
from cifarctl.stream.source import Source


@pytest.fixture(params=["classic", "consumer"])
def kafka(apache: ApacheKafka, request: pytest.FixtureRequest) -> KafkaSettings:
    return own_settings(apache, partitions=2, group_protocol=request.param)


def test_serve_ends_when_the_client_gives_nothing_although_there_is_something(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client keeps a pause that nobody has asked for any more, as it did after a restart of the broker."""
    monkeypatch.setattr(stall, "STALL_S", 3.0)
    monkeypatch.setattr(stall, "UNDONE_IN_A_ROW", 0)
    monkeypatch.setattr(stall, "ASK_INTERVAL_S", 0.3)
    sources: list[Source] = []
    join = Source.__init__

    def remembered(self: Source, *given: object, **named: object) -> None:
        join(self, *given, **named)  # type: ignore[arg-type]
        sources.append(self)

    monkeypatch.setattr(Source, "__init__", remembered)
    clients.ensure_topics(site.kafka, [site.topics.images])
    serving = site.serve()
    serving.until(lambda: serving.of(events.Assigned) and serving.of(events.Assigned)[-1].partitions)
    began = time.monotonic()
    serving.until(lambda: time.monotonic() > began + 5)  # nothing to read: longer than the limit, and no error
    sources[0].consumer.pause([TopicPartition(site.topics.images, 0)])
    site.send(40)
    with pytest.raises(BrokerError, match=r"\.images\[0\] \(lag \d+\): no progress for 3\.1 s .* start it again"):
        serving.until(lambda: False)


def test_who_only_reads_is_told_as_well_but_not_of_what_it_holds(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL_S", 2.0)
    monkeypatch.setattr(stall, "ASK_INTERVAL_S", 0.3)
    topic = f"{kafka.topic_prefix}.images"
    clients.ensure_topics(kafka, [topic])
    sender = clients.producer(kafka)
    with Source(kafka, [topic]) as source:
        until(lambda: source.read(10, 0.1) or source.caught_up)
        source.hold(source.assigned)
        for number in range(20):
            sender.produce(topic, b"x", partition=number % 2)
        sender.flush()
        began = time.monotonic()
        until(lambda: source.read(10, 0.1) or time.monotonic() > began + 4)
        source.hold(frozenset())
        source.consumer.pause([TopicPartition(topic, 1)])
        with pytest.raises(BrokerError, match=r"images\[1\] \(lag 10\): no progress for 2 s"):
            until(lambda: source.read(10, 0.1) and False)
