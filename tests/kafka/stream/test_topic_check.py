"""What is said at the start of topics that are odd: nobody has written there, others answer the same images."""

from __future__ import annotations

from contextlib import closing

import pytest
from apache_kafka import ApacheKafka
from fixtures_kafka import own_settings
from processes import until
from topic_checks import found

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source


def images_of(settings: KafkaSettings, count: int) -> str:
    """The images topic, with so many messages."""
    topic = clients.Topics.of(settings.topic_prefix).images
    clients.ensure_topics(settings, [topic])
    sender = Sender(settings)
    for number in range(count):
        sender.send(topic, b"%d" % number, bytes(3072))
    sender.close(30)
    return topic


def test_a_misspelt_prefix_is_told_with_those_that_are_there(apache: ApacheKafka) -> None:
    settings = own_settings(apache)
    images_of(settings, 1)
    misspelt = settings.model_copy(update={"topic_prefix": settings.topic_prefix[:-1]})
    topic = images_of(misspelt, 0)
    (told,) = found(misspelt, 1)
    assert told.startswith(f"{topic} has never been written to: ")
    assert f"(there are also the prefixes {settings.topic_prefix}" in told


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_another_group_on_the_same_images_is_told(apache: ApacheKafka, protocol: str) -> None:
    """While it reads them, and afterwards to a group that is new; learners are none of those that answer."""
    settings = own_settings(apache, group_protocol=protocol, partitions=1)
    topic = images_of(settings, 1)
    other, learner, new = (
        settings.model_copy(update={"group_id": f"{settings.group_id}-{name}"})
        for name in ("other", "x.learner", "new")
    )
    with closing(Source(learner, [topic])) as source:
        until(lambda: source.read(10, 0.2))
        assert found(settings, 0) == []
    with closing(Source(other, [topic])) as source:
        until(lambda: source.read(10, 0.2))
        (told,) = found(settings, 1)
        assert told.startswith(f"{other.group_id} reads {topic} too, besides this group ({settings.group_id}): ")
        assert "answered twice" in told
        assert found(other, 0) == []
        until(lambda: source.commit({(topic, 0): 1}))
    (told,) = found(new, 1)
    assert told.startswith(f"{other.group_id} has read {topic} before, and this group ({new.group_id}) is new: ")
    assert found(other, 0) == []
