"""Any records at all: each is accounted for once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import CLASSES, anything, decode

from cifarctl.stream.letters import dead_letter_message
from cifarctl.stream.records import Record


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=12))
def test_every_record_is_accounted_for_once_and_in_order(records: list[Record]) -> None:
    good, bad = decode(*records)
    place = {id(item): index for index, item in enumerate(records)}
    images_at = [place[id(item)] for item in good.records]
    letters_at = [place[id(letter.record)] for letter in bad]
    if len(place) == len(records):
        assert sorted(images_at + letters_at) == list(range(len(records)))
        assert images_at == sorted(images_at)
        assert letters_at == sorted(letters_at)
    assert len(images_at) + len(letters_at) == len(records)
    assert good.pixels.shape == (len(good.ids), 3, 32, 32)
    assert good.pixels.dtype == np.uint8
    assert good.labels.shape == (len(good.ids),)
    assert ((good.labels >= -1) & (good.labels < CLASSES)).all()
    for name in good.ids:
        assert len(name.encode()) <= 3 * 1024
    for letter in bad:
        assert letter.stage == "decode"
        assert letter.error.isidentifier()
        assert letter.message
        key, value, headers = dead_letter_message(letter)
        assert (key, value) == (letter.record.key, letter.record.value)
        assert headers[: len(letter.record.headers)] == list(letter.record.headers)
