"""Sizes of messages: some form of everything fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cifarctl.stream import letters
from cifarctl.stream.letters import dead_letter_message
from cifarctl.stream.limits import DEFAULT_BYTES, MIN_BYTES, Limits, TopicLimits
from cifarctl.stream.records import DeadLetter, Record
from cifarctl.stream.sizes import wire_size


@given(
    st.builds(
        Record,
        topic=st.text("abc.-_", min_size=1, max_size=249),
        partition=st.integers(0, 10**9),
        offset=st.integers(0, 10**18),
        timestamp_ms=st.just(0),
        key=st.none() | st.binary() | st.just(b"k" * 20_000),
        value=st.none() | st.binary() | st.just(b"v" * 990_000),
        headers=st.lists(st.tuples(st.text(max_size=50), st.none() | st.binary(max_size=5000)), max_size=9).map(tuple),
    ),
    st.text(max_size=600),
    st.integers(MIN_BYTES, 1_000_000),
    st.booleans(),
)
def test_some_form_of_a_letter_fits_everywhere(record: Record, message: str, size: int, keyed: bool) -> None:
    letter = DeadLetter(record, "decode", "LabelOutOfRange", message)
    key, value, headers = dead_letter_message(letter, size, keyed=keyed)
    assert wire_size(key, value, headers) <= size
    assert key is not None or not keyed
    read = letters.read_letter(Record("dead", 0, 0, 0, key, value, tuple(headers)))
    assert read is not None
    assert read.source == letters.Source(record.topic, record.partition, record.offset)
    assert read.error == "LabelOutOfRange"
    assert (value == record.value and read.original_key == record.key) or letters.is_digest_of(value, record.value)
    assert read.original_key in (None, record.key)
    if not keyed:
        assert read.original_key == key, "nothing is added where nothing is asked"


@given(st.integers(MIN_BYTES, 2 * DEFAULT_BYTES), st.integers(1, DEFAULT_BYTES))
def test_a_limit_that_nobody_tells_is_found(true: int, size: int) -> None:
    """By refusals of what was expected to fit, in a few steps."""
    limits = Limits()
    for _ in range(12):
        sent = min(limits.of("t"), DEFAULT_BYTES)
        if sent <= true:
            break
        assert limits.refused("t", max(size, sent))
    assert limits.of("t") <= true
    assert limits.batch <= limits.of("t")


def test_reported_limits_take_precedence_over_guesses() -> None:
    told = {"t": TopicLimits(50_000)}
    limits = Limits(lambda: told)
    assert (limits.of("t"), limits.of("other"), limits.batch) == (50_000, 1_000_000, 50_000)
    told["t"] = TopicLimits(40_000)
    assert limits.refused("t", 45_000)
    assert limits.of("t") == 40_000
    assert limits.refused("t", 30_000)
    assert limits.of("t") == 15_000
    told["t"] = TopicLimits(MIN_BYTES)
    assert limits.refused("t", 15_000)
    assert not limits.refused("t", MIN_BYTES)
