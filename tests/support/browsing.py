"""Topics to be looked at."""

from __future__ import annotations

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.sender import Sender


def fill(settings: KafkaSettings, count: int, topic: str = "images") -> str:
    """A topic of three partitions with `count` messages, keyed by their numbers."""
    name = getattr(clients.Topics.of(settings.topic_prefix), topic)
    clients.ensure_topics(settings, [name])
    sender = Sender(settings)
    for number in range(count):
        sender.send(name, str(number).encode(), b"value %d" % number, [("number", b"%d" % number), ("none", None)])
    sender.close(10)
    assert isinstance(name, str)
    return name
