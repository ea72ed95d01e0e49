"""Labels on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from late_labels import CLASSES

from cifarctl.stream.label_records import decode, encode_label
from cifarctl.stream.letters import dead_letter_message
from cifarctl.stream.records import Record


def record(value: bytes | None, key: bytes | None = b"the-key", offset: int = 0, topic: str = "labels") -> Record:
    return Record(topic, 0, offset, 1000, key, value, ())


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), st.integers(0, 9)))
)
def test_encoding_round_trips(pairs: list[tuple[str, int]]) -> None:
    records = [record(encode_label(id, label), offset=offset) for offset, (id, label) in enumerate(pairs)]
    found, letters = decode(records, classes=CLASSES)
    assert not letters
    assert list(zip(found.ids, found.labels.tolist(), strict=True)) == pairs
    assert found.records == records
    assert found.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("value", "key", "id"),
    [
        (b'{"label": 3}', b"the-key", "the-key"),
        (b'{"id": "", "label": 3, "more": [1]}', b"the-key", "the-key"),
        (b'{"id": null, "label": 3}', "\u00fc".encode(), "\u00fc"),
        (b'{"id": 17, "label": 3}', b"the-key", "17"),
    ],
)
def test_which_image_a_label_belongs_to(value: bytes, key: bytes, id: str) -> None:
    found, letters = decode([record(value, key)], classes=CLASSES)
    assert not letters
    assert (found.ids, found.labels.tolist()) == ([id], [3])


BAD: list[tuple[bytes | None, bytes | None, str]] = [
    (None, b"k", "NullValue"),
    (b"", b"k", "NotJson"),
    (b"3", b"k", "NotAnObject"),
    (b"[]", b"k", "NotAnObject"),
    (b"{" * 100_000, b"k", "NotJson"),
    (b'{"id": "a"}', b"k", "MissingLabel"),
    (b'{"id": "a", "label": null}', b"k", "MissingLabel"),
    (b'{"id": "a", "label": "3"}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": 3.0}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": true}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": NaN}', b"k", "NotJson"),
    (b'{"id": "a", "label": -1}', b"k", "LabelOutOfRange"),
    (b'{"id": "a", "label": 10}', b"k", "LabelOutOfRange"),
    (b'{"id": "a", "label": 123456789012345678901234567890}', b"k", "LabelNotInteger"),
    (b'{"id": ["a"], "label": 3}', b"k", "IdNotText"),
    (b'{"id": false, "label": 3}', b"k", "IdNotText"),
    (b'{"id": "\\ud800", "label": 3}', b"k", "NotJson"),
    (b'{"id": "' + b"x" * 1025 + b'", "label": 3}', b"k", "IdTooLong"),
    (b'{"label": 3}', b"x" * 1025, "IdTooLong"),
    (b'{"label": 3}', None, "MissingId"),
]


@pytest.mark.parametrize(("value", "key", "error"), BAD, ids=[f"{error}-{n}" for n, (_, _, error) in enumerate(BAD)])
def test_an_invalid_label_is_a_dead_letter(value: bytes | None, key: bytes | None, error: str) -> None:
    bad, good = record(value, key), record(encode_label("a", 3), offset=1)
    found, (letter,) = decode([bad, good], classes=CLASSES)
    assert found.records == [good]
    assert (letter.record, letter.stage, letter.error) == (bad, "label", error)
    assert letter.message
    assert len(letter.message) < 500
    dead_letter_message(letter)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=20))
def test_whatever_the_bytes_each_record_is_in_one_place(values: list[bytes | None]) -> None:
    records = [record(value, offset=offset) for offset, value in enumerate(values)]
    found, letters = decode(records, classes=CLASSES)
    assert sorted(found.records + [letter.record for letter in letters], key=lambda r: r.offset) == records
