"""Transactions on a broker that a quota slows down."""

from __future__ import annotations

import json

import pytest
from apache_kafka import ApacheKafka
from fixtures_kafka import own_settings
from processes import Site, predictions

from cifarctl import events
from cifarctl.settings import KafkaSettings
from cifarctl.stream.sender import Sender


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    """A place of this test's own on the shared node."""
    return own_settings(apache, partitions=2)


def test_a_broker_slowed_by_a_quota_gets_smaller_transactions(
    site: Site,
    apache: ApacheKafka,
) -> None:
    """What comes at once takes many times the transaction's timeout to answer: each is answered, and once."""
    client, count = f"slow-{site.kafka.group_id}", 900
    site.options["kafka.options"] = json.dumps({"client.id": client, "transaction.timeout.ms": 1500})
    apache.slow_down(client, 25_000)
    sender = Sender(site.kafka)
    for number in range(count):
        sender.send(site.topics.images, b"%d" % number, bytes(3072))
    sender.close(10)
    serving = site.serve(max_messages=count)
    assert serving.result().predicted == count
    told = [event.message for event in serving.of(events.Notice)]
    assert any("the broker is slow" in line and "transaction.timeout.ms" in line for line in told)
    assert sorted(int(each.id) for each in predictions(site.topic("predictions"))) == list(range(count))
