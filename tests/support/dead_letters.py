"""Dead letters on a topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from helpers import cifarctl
from typer.testing import Result

from cifarctl.flows.dead_letters import Choice
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse
from cifarctl.stream.clients import Topics
from cifarctl.stream.letters import dead_letter_message
from cifarctl.stream.records import DeadLetter, Headers, Record
from cifarctl.stream.sender import Sender

ALL = Choice()
HEADERS: Headers = [("content-type", b"application/x-cifar-raw"), ("id", b"seven"), ("label", b"11"), ("none", None)]


def letter(settings: KafkaSettings, number: int, error: str = "WrongLength", **changes: Any) -> DeadLetter:
    """A letter about a record that may never have lain in the images topic."""
    fields = {
        "topic": Topics.of(settings.topic_prefix).images,
        "partition": 2,
        "offset": number,
        "timestamp_ms": 1_700_000_000_000,
        "key": b"key-%d" % number,
        "value": b"value %d" % number,
        "headers": tuple(HEADERS),
    }
    return DeadLetter(Record(**fields | changes), "decode", error, f"{number} is no image")


def send(settings: KafkaSettings, letters: Sequence[DeadLetter]) -> None:
    """Put them where `serve` puts them."""
    sender = Sender(settings)
    for each in letters:
        sender.send(Topics.of(settings.topic_prefix).dead_letters, *dead_letter_message(each))
    sender.close(10)


def images(settings: KafkaSettings) -> list[Record]:
    topic = Topics.of(settings.topic_prefix).images
    browse.await_decided(settings, topic)
    return list(browse.read(settings, topic))


def sent_back(settings: KafkaSettings) -> Counter[bytes | None]:
    """The keys of the images topic."""
    return Counter(record.key for record in images(settings))


def counts(result: Any) -> tuple[int, int, int]:
    return result.replayed, result.skipped, result.failed


def place_of(settings: KafkaSettings, key: str) -> tuple[int, int]:
    """Where the letter about `key` lies."""
    topic = Topics.of(settings.topic_prefix).dead_letters
    (found,) = [(r.partition, r.offset) for r in browse.read(settings, topic) if r.key == key.encode()]
    return found


def run(settings: KafkaSettings, *arguments: str) -> Result:
    given = {"bootstrap_servers": settings.bootstrap_servers, "topic_prefix": settings.topic_prefix}
    options = [f"--set=kafka.{name}={value}" for name, value in given.items()]
    return cifarctl("dead-letters", *arguments, *options)
