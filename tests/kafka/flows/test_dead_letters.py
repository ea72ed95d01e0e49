"""`dead-letters list` and `replay` on Apache Kafka."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from dead_letters import ALL, counts, images, letter, place_of, send, sent_back
from letters_anywhere import (  # noqa: F401  (tests that run here too)
    test_a_digest_is_exchanged_for_its_original,
    test_a_digest_whose_original_is_another_one_is_not_sent,
    test_a_dry_run_sends_nothing,
    test_a_letter_goes_back_as_it_came_once,
    test_a_list_tells_all_of_a_letter,
    test_a_tombstone_goes_back_as_one,
    test_letters_go_back_to_where_each_came_from,
    test_many_letters_go_back_once_and_in_order,
    test_some_letters_go_back,
    test_what_fails_again_can_go_back_again,
    with_topics,
)

from cifarctl.errors import BrokerError
from cifarctl.flows.dead_letters import replay
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, codecs
from cifarctl.stream.clients import Topics
from cifarctl.stream.replay import Replay, ReplayMessage
from cifarctl.stream.sender import Sender

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(params=["apache_kafka_settings"])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    return with_topics(request.getfixturevalue(request.param))


def test_two_at_once_send_nothing_twice(apache_kafka_settings: KafkaSettings) -> None:
    """The second producer fences the first, whose batch is aborted."""
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    send(settings, [letter(settings, 1)])
    with Replay(settings, topics.dead_letters) as first:
        assert counts(replay(settings, ALL)) == (1, 0, 0)
        item = ReplayMessage(topics.images, b"key-1", b"value 1", [], *place_of(settings, "key-1"))
        with pytest.raises(BrokerError):
            first.send([item])
    assert sent_back(settings) == {b"key-1": 1}


def limit_messages(settings: KafkaSettings, topic: str, size: int) -> None:
    """Set the largest message of a topic, in bytes."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    limit = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource("topic", topic, incremental_configs=[limit])]
    ).values():
        future.result()


def test_twenty_megabytes_go_back(apache_kafka_settings: KafkaSettings) -> None:
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    limit_messages(settings, topics.images, 25_000_000)
    value = bytes(range(250)) * 80_000
    sender = Sender(settings, options={"message.max.bytes": 25_000_000})
    sender.send(topics.images, b"huge", value)
    sender.close(30)
    bad, (found,) = codecs.decode(images(settings), classes=10, json_mean=HALF, json_std=HALF)
    assert (bad.ids, found.error) == ([], "TooLarge")
    send(settings, [found])
    assert counts(replay(settings, ALL)) == (1, 0, 0)
    assert [record.value == value for record in images(settings)] == [True, True]


def test_what_a_topic_is_too_small_for_is_told_and_hinders_no_other(
    apache_kafka_settings: KafkaSettings,
) -> None:
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    sizes = {1: 10, 2: 50_000, 3: 20}
    send(settings, [letter(settings, number, key=b"same", value=b"x" * size) for number, size in sizes.items()])
    limit_messages(settings, topics.images, 2000)
    result = replay(settings, ALL)
    assert counts(result) == (2, 0, 1)
    assert "takes no message of its size" in result.problems[0]
    assert [len(record.value or b"") for record in images(settings)] == [10, 20]
