"""Behind the last record: marks of transactions and what aborted ones have left. The position is what is committed.

An outside writer's transactions leave what nobody is given to read; a group that commits the last record + 1 never gets
beyond it, so that lag never becomes 0 and, once retention has deleted all, its place is gone.
"""

from __future__ import annotations

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from fixtures_kafka import own_settings
from processes import Site

from cifarctl.flows.verify import verify
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients

IDLE_S = 1.0


@pytest.fixture(params=[("classic", "exactly-once"), ("consumer", "exactly-once"), ("consumer", "at-least-once")])
def kafka(apache: ApacheKafka, request: pytest.FixtureRequest) -> KafkaSettings:
    protocol, delivery = request.param
    return own_settings(apache, partitions=2, group_protocol=protocol, delivery=delivery)


class Writer:
    """Writes images, and labels, in transactions."""

    def __init__(self, site: Site) -> None:
        self._topics = site.topics
        self._producer: Producer = clients.producer(site.kafka, transactional_id=f"{site.kafka.topic_prefix}.writer")
        self._producer.init_transactions(30)
        self._number = 0

    def write(self, count: int, partition: int, *, commit: bool = True) -> None:
        self._producer.begin_transaction()
        for _ in range(count):
            self._number += 1
            id = f"{self._number}".encode()
            self._producer.produce(
                self._topics.images, bytes(3072), id, partition, headers=[("id", id), ("label", b"3")]
            )
        self._producer.flush()
        (self._producer.commit_transaction if commit else self._producer.abort_transaction)()


def lag(site: Site, topic: str, group: str) -> dict[int, int]:
    """As other tools tell it: the end of each partition less what the group has committed."""
    done = browse.committed(site.kafka, topic, group)
    return {number: end - done.get(number, 0) for number, (_, end) in browse.bounds(site.kafka, topic).items()}


def test_lag_rests_at_zero_and_retention_may_delete_all(site: Site) -> None:
    images, group = site.topics.images, site.kafka.group_id
    clients.ensure_topics(site.kafka, [images])
    writer = Writer(site)
    writer.write(7, 0)
    writer.write(5, 0, commit=False)
    writer.write(3, 1, commit=False)  # a partition without any record to read
    serving = site.serve()
    serving.until(lambda: lag(site, images, group) == {0: 0, 1: 0})
    writer.write(2, 1, commit=False)
    writer.write(4, 0)
    serving.until(lambda: lag(site, images, group) == {0: 0, 1: 0})
    assert serving.finish().predicted == 11

    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    ends = {number: end for number, (_, end) in browse.bounds(site.kafka, images).items()}
    places = [TopicPartition(images, number, end) for number, end in ends.items()]
    for future in admin.delete_records(places).values():
        future.result()
    assert browse.bounds(site.kafka, images) == {number: (end, end) for number, end in ends.items()}
    assert site.serve(idle_timeout=IDLE_S).result().predicted == 0
    writer.write(6, 1)
    assert site.serve(idle_timeout=IDLE_S).result().predicted == 6
    assert lag(site, images, group) == {0: 0, 1: 0}


def test_the_proof_holds_with_positions_behind_the_last_record(site: Site) -> None:
    clients.ensure_topics(site.kafka, [site.topics.images])
    writer = Writer(site)
    writer.write(7, 0)
    writer.write(5, 1, commit=False)
    assert site.serve(idle_timeout=IDLE_S).result().predicted == 7
    *_, result = verify(site.kafka)
    assert result.exact, result
    writer.write(4, 0)
    assert site.serve(idle_timeout=IDLE_S).result().predicted == 4
    *_, result = verify(site.kafka)
    assert result.exact, result


@pytest.mark.parametrize("kafka", [("classic", "exactly-once")], indirect=True)
def test_the_learners_lag_rests_as_well(site: Site) -> None:
    images, group = site.topics.images, f"{site.kafka.group_id}.learner"
    clients.ensure_topics(site.kafka, [images])
    writer = Writer(site)
    writer.write(7, 0)
    writer.write(5, 1, commit=False)
    learner = site.start("retrain", "--follow", "--no-dashboard", "--json")
    learner.until(lambda: lag(site, images, group) == {0: 0, 1: 0})
    writer.write(2, 0, commit=False)
    learner.until(lambda: lag(site, images, group) == {0: 0, 1: 0})
