"""Dead letters on the wire: what they carry, and that they always fit."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from wire import anything, decode, record

from cifarctl.stream import letters
from cifarctl.stream.letters import dead_letter_headers, dead_letter_message
from cifarctl.stream.records import Headers, Record


def test_dead_letter_headers_come_after_the_original_ones() -> None:
    _, (letter,) = decode(record(b"oops", offset=5, content_type=b"application/json", other=None))
    headers = dead_letter_headers(letter)
    assert headers[:2] == [("content-type", b"application/json"), ("other", None)]
    assert headers[2][0] == "cifarctl.error.class"
    assert dict(headers[2:]) == {
        "cifarctl.error.class": b"NotJson",
        "cifarctl.error.message": letter.message.encode(),
        "cifarctl.error.stage": b"decode",
        "cifarctl.source.topic": b"cifar.images",
        "cifarctl.source.partition": b"2",
        "cifarctl.source.offset": b"5",
    }


@pytest.mark.parametrize(
    "bad",
    [
        record(b"?" * 1_000_000, offset=5, other=b"y"),
        record(b"?" * 20_000_000, offset=5, other=b"y"),
        record(b"?" * 10, key=b"k" * 950_000, offset=5, other=b"y"),
    ],
)
def test_a_huge_dead_letter_travels_as_a_digest(bad: Record) -> None:
    _, (letter,) = decode(bad)
    key, body, headers = dead_letter_message(letter)
    digest = json.loads(body or b"")
    value = bad.value or b""
    assert key == (b"k" if bad.key == b"k" else None)
    assert digest["size"] == len(value)
    assert digest["sha256"] == hashlib.sha256(value).hexdigest()
    assert value.startswith(base64.b64decode(digest["head"]))
    assert digest["source"] == {"topic": "cifar.images", "partition": 2, "offset": 5}
    assert headers[0] == ("other", b"y")
    assert dict(headers)["cifarctl.error.class"] == letter.error.encode()
    assert len(body or b"") < 10_000


def wire_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """What Kafka counts: every length as a varint of at most five bytes."""
    names = sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers)
    return len(key or b"") + len(value or b"") + names + 100


@pytest.mark.parametrize(
    "bad",
    [
        record(b"?", other=b"y" * 1_000_000),
        record(b"?", **{f"h{number}": b"" for number in range(200_000)}),
        record(b"?", **{"é" * 700_000: b""}),
        record(b"?" * 880_000, key=b"x" * 15_000, other=b"y" * 16_000),
        record(b"?" * 899_000, content_type=b"\xff" * 1000),
        record(None, key=b"x" * 2_000_000),
        record(b"[" * 890_000),
    ],
    ids=["large header", "many headers", "name beyond ASCII", "all of it", "type", "key", "value"],
)
def test_a_dead_letter_always_fits(bad: Record) -> None:
    _, (letter,) = decode(bad)
    assert wire_size(*dead_letter_message(letter)) < 1 << 20


def test_a_letter_comes_back() -> None:
    _, (sent,) = decode(record(b"oops", offset=5, content_type=b"application/json", other=None))
    key, value, headers = dead_letter_message(sent)
    lying = Record("cifar.dead-letters", 1, 9, 0, key, value, tuple(headers))
    letter = letters.read_letter(lying)
    assert letter is not None
    assert (letter.error, letter.message, letter.stage) == (sent.error, sent.message, "decode")
    assert letter.source == letters.Source("cifar.images", 2, 5)
    assert letter.original_headers == list(sent.record.headers)
    assert not letter.digested


def test_a_receipt_is_not_a_letter() -> None:
    receipt = Record("cifar.dead-letters", 1, 9, 0, None, None, tuple(letters.receipt(3, 17)))
    assert letters.read_letter(receipt) is None
    assert letters.receipt_for(receipt) == (3, 17)


@given(anything)
def test_whatever_lies_among_the_letters_is_read(foreign: Record) -> None:
    letter = letters.read_letter(foreign)
    assert letter is not None
    assert letter.record is foreign
    assert letters.receipt_for(foreign) is None
