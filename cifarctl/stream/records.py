"""A consumed message, a dead letter, and a batch of decoded images."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from confluent_kafka import Message

Headers: TypeAlias = list[tuple[str, bytes | None]]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Flags: TypeAlias = npt.NDArray[np.bool_]
Partition: TypeAlias = tuple[str, int]  # topic, number

#: Channels, rows, columns of an image.
SHAPE = (3, 32, 32)
SIDE = 32
RAW_BYTES = 3 * SIDE * SIDE


class Record(NamedTuple):
    """A consumed message; `timestamp_ms` is epoch milliseconds, -1 if the broker has none.

    Bytes of a header name that are not UTF-8 are escaped: ``\\xff``. `unread` means that the client cannot return the
    headers; `headers` is empty then.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    unread: bool = False


class DeadLetter(NamedTuple):
    """A bad record, which no model may see: the stage that failed, the class of the error, and a message for people."""

    record: Record
    stage: str
    error: str
    message: str


class Refused(Exception):
    """A record cannot be used, and why; becomes a `DeadLetter`."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True)
class Decoded:
    """The valid records of a batch, in the order they were read.

    pixels (B, 3, 32, 32) uint8, writable and contiguous; labels (B,) int64, -1 = unlabelled.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    ids: list[str]
    records: list[Record]

    def take(self, places: npt.NDArray[np.intp]) -> Decoded:
        """The images at these indices (P,)."""
        numbers = places.tolist()
        ids, records = [self.ids[number] for number in numbers], [self.records[number] for number in numbers]
        return Decoded(self.pixels[places], self.labels[places], ids, records)


#: If a header name is not UTF-8, the client's C code returns the headers with an exception set, which becomes a
#: SystemError. A plain method call, once the interpreter has specialised it, misses that, and the exception surfaces at
#: an unrelated line later.
_raw_headers = methodcaller("headers")
#: Replaces a name that is not UTF-8 and that the client does not return: it returns only the first one of a message.
UNKNOWN_NAME = "\\x??"


def _headers(message: Message) -> tuple[tuple[tuple[str, bytes | None], ...], bool]:
    """The headers, and whether they are unread: see `Record`."""
    try:
        return tuple(_raw_headers(message) or ()), False
    except (SystemError, UnicodeDecodeError) as error:
        return _rescued(message, error)


def _rescued(message: Message, error: BaseException) -> tuple[tuple[tuple[str, bytes | None], ...], bool]:
    """The headers that the client keeps after it has failed at a name: all of them, without that name.

    The name in its pair is then a null pointer, which Python code must not touch; the pair refers to one object less.
    The bytes of the first such name are in the exception.
    """
    try:
        pairs = _raw_headers(message) or ()
    except (SystemError, UnicodeDecodeError):
        return (), True
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UnicodeDecodeError):  # each further name adds one of them
        cause = cause.__cause__
    name = UNKNOWN_NAME if cause is None else cause.object.decode("utf-8", "backslashreplace")
    headers: list[tuple[str, bytes | None]] = []
    for pair in pairs:
        if len(gc.get_referents(pair)) == len(pair):
            headers.append(pair)
        else:
            headers.append((name, pair[1]))
            name = UNKNOWN_NAME
    return tuple(headers), not headers


def record_of(message: Message) -> Record:
    """The record of a message that is not an error."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    known, timestamp = message.timestamp()
    when = timestamp if known else -1
    return Record(topic, partition, offset, when, message.key(), message.value(), *_headers(message))
