"""Labels and images that come apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from processes import PATIENCE_S, until

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics
from cifarctl.stream.label_join import Matched
from cifarctl.stream.label_records import encode_label
from cifarctl.stream.sender import Sender
from cifarctl.stream.tail import Tail

CLASSES = 10

# --- the join


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def number_of(image: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def pairs(found: Matched) -> list[tuple[str, int, int]]:
    """id, number of the pixels and label of each match."""
    return [
        (id, number_of(image), label)
        for id, image, label in zip(found.ids, found.pixels, found.labels.tolist(), strict=True)
    ]


# --- reading the topic


def send_labels(settings: KafkaSettings, labels: dict[str, int] | list[tuple[bytes, bytes]]) -> None:
    topic = Topics.of(settings.topic_prefix).labels
    clients.ensure_topics(settings, [topic])
    sender = Sender(settings)
    if isinstance(labels, dict):
        labels = [(id.encode(), encode_label(id, label)) for id, label in labels.items()]
    for key, value in labels:
        sender.send(topic, key, value)
    sender.close(PATIENCE_S)


def gather(reader: Tail[tuple[str, int]], count: int) -> dict[str, int]:
    found: list[tuple[str, int]] = []
    until(lambda: found.extend(reader.read()) or len(found) >= count, lambda: f"{len(found)} of {count} labels")
    assert len(found) == count
    return dict(found)
