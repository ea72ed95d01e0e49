"""Which id and which label an image has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CLASSES, decode, message, record

from cifarctl.stream import fields, label_records
from cifarctl.stream.records import Record


@pytest.mark.parametrize(
    ("sent", "id"),
    [
        (record(message(id="body"), id=b"header"), "body"),
        (record(message(id=17), id=b"header"), "17"),
        (record(message(id=None), id=b"header"), "header"),
        (record(message(id="")), "k"),
        (record(message(id=...)), "k"),
        (record(b"x" * 3072, id=b"header"), "header"),
        (record(b"x" * 3072, id=None), "k"),
        (record(b"x" * 3072, key=b"\xffkey"), "key:ff6b6579"),
        (record(b"x" * 3072, key=(600).to_bytes(8, "big")), "\0\0\0\0\0\0\2X"),
        (record(b"x" * 3072, key=(128).to_bytes(8, "big")), "key:0000000000000080"),
        (record(b"x" * 3072, key=b"key:12"), "key:12"),
        (record(b"x" * 3072, key=b"key:ff"), "key:6b65793a6666"),
        (record(b"x" * 3072)._replace(headers=(("id", b"first"), ("id", b"last"))), "last"),
        (record(b"x" * 3072, id=b""), "k"),
        (record(b"x" * 3072, id=b"a\0b\nc"), "a\0b\nc"),
        (record(b"x" * 3072, key=None, offset=12), "cifar.images-2-12"),
        (record(b"x" * 3072, key=b"", offset=13), "cifar.images-2-13"),
    ],
)
def test_where_the_id_comes_from(sent: Record, id: str) -> None:
    good, bad = decode(sent)
    assert not bad
    assert good.ids == [id]


@pytest.mark.parametrize(
    ("sent", "label"),
    [
        (record(message(label=None)), -1),
        (record(message(label=...)), -1),
        (record(message(label=...), label=b"4"), 4),
        (record(message(label=5), label=b"4"), 5),
        (record(b"x" * 3072), -1),
        (record(b"x" * 3072, label=None), -1),
        (record(b"x" * 3072, label=b"09"), 9),
        (record(b"x" * 3072, label=b"0" * 5000 + b"7"), 7),
        (record(message().replace(b'"label": 3', b'"label": 3, "label": 4')), 4),
        (record(b"x" * 3072)._replace(headers=(("label", b"3"), ("label", b"4"))), 4),
    ],
)
def test_where_the_label_comes_from(sent: Record, label: int) -> None:
    good, bad = decode(sent)
    assert not bad
    assert good.labels.tolist() == [label]


written = st.recursive(
    st.binary(max_size=6) | st.text(max_size=4).map(str.encode) | st.sampled_from([b"key:", b"key:ff", b"key:FF"]),
    lambda keys: keys.map(lambda key: b"key:" + key.hex().encode()),
)


@given(written, written)
def test_different_keys_are_different_ids(first: bytes, second: bytes) -> None:
    assert (fields.shown_key(first) == fields.shown_key(second)) == (first == second)


def test_binary_keys_are_as_many_ids_everywhere() -> None:
    keys = [number.to_bytes(8, "big") for number in range(128, 728)]
    images, _ = decode(*(record(bytes(3072), key=key) for key in keys))
    found, _ = label_records.decode([record(b'{"label": 3}', key=key) for key in keys], classes=CLASSES)
    assert len(set(images.ids)) == len(keys)
    assert images.ids == found.ids


def test_labels_do_as_images_do() -> None:
    """A message that is not a label is refused like one that is not an image."""
    sent = [
        record(b'{"id": "a", "label": 3}')._replace(unread=True),
        record('{"id": "a", "label": 3}'.encode("utf-16")),
        record(b'\xff{"id": "a", "label": 3}'),
        record(b'{"id": "a", "label": NaN}'),
        record(b'{"id": "a", "label": true}'),
        record(b'{"id": "a", "label": "3"}'),
        record(b'{"id": 1.5, "label": 3}'),
        record(b'{"label": 3}', key=b"\xff" * 600),
    ]
    _, bad = label_records.decode(sent, classes=CLASSES)
    assert [letter.error for letter in bad] == [
        *["HeadersUnread", "NotJson", "NotJson", "NotJson", "LabelNotInteger", "LabelNotInteger"],
        *["IdNotText", "IdTooLong"],
    ]
    assert "UTF-16" in bad[1].message
    assert "surrogates" not in bad[2].message
