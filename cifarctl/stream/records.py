"""A consumed message, one that no model may see, and what a batch of images becomes."""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from confluent_kafka import Message

Headers: TypeAlias = list[tuple[str, bytes | None]]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Partition: TypeAlias = tuple[str, int]  # topic, number

#: Channels, rows, columns of an image.
SHAPE = (3, 32, 32)
SIDE = 32


class Record(NamedTuple):
    """A consumed message; `timestamp_ms` is epoch milliseconds, -1 where the broker knows none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class DeadLetter(NamedTuple):
    """A record that no model may see: where it failed, the class of the failure and what to tell a person."""

    record: Record
    stage: str
    error: str
    message: str


class Refused(Exception):
    """Why a record cannot be used; becomes a `DeadLetter`."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True)
class Decoded:
    """The good records of a batch, in the order they were read.

    pixels (B, 3, 32, 32) uint8, writable and contiguous; labels (B,) int64, -1 = unlabelled.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    ids: list[str]
    records: list[Record]

    def take(self, places: npt.NDArray[np.intp]) -> Decoded:
        """The images in those places (P,)."""
        numbers = places.tolist()
        ids, records = [self.ids[number] for number in numbers], [self.records[number] for number in numbers]
        return Decoded(self.pixels[places], self.labels[places], ids, records)


#: The client's C code returns such headers together with a pending exception (a SystemError). A plain method
#: call, once the interpreter has specialised it, passes that by: it surfaces at some innocent line later.
_raw_headers = methodcaller("headers")


def headers_of(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """The headers; none of them where a name is not UTF-8, which the client cannot represent."""
    try:
        return tuple(_raw_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ()


def record_of(message: Message) -> Record:
    """The record of a message that is no error."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    known, timestamp = message.timestamp()
    return Record(
        topic, partition, offset, timestamp if known else -1, message.key(), message.value(), headers_of(message)
    )
