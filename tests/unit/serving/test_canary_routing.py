"""Which ids the canary answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarctl.serving.canary_routing import canary_side

ids = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), max_size=20)
shares = st.floats(0, 1, exclude_max=True)


@given(ids, shares)
def test_an_id_is_on_the_same_side_in_whatever_batch_it_comes(names: list[str], share: float) -> None:
    sides = canary_side(names, share).tolist()
    assert canary_side(names[::-1], share).tolist() == sides[::-1]
    assert [bool(canary_side([name], share)[0]) for name in names] == sides


@given(ids, shares, shares)
def test_a_larger_share_only_adds_to_a_smaller_one(names: list[str], one: float, other: float) -> None:
    smaller, larger = (canary_side(names, share) for share in sorted((one, other)))
    assert not (smaller & ~larger).any()


@given(shares, st.integers(0, 10**6))
@settings(max_examples=20)
def test_so_many_ids_as_the_share_says(share: float, first: int) -> None:
    names = [f"run-{number:08d}" for number in range(first, first + 2000)]
    assert abs(canary_side(names, share).mean() - share) < 5 * np.sqrt(0.25 / 2000)


def test_the_hash_is_the_one_that_is_documented() -> None:
    """So that other programs can tell which side an id is on; b2sum --length 64 prints these."""
    assert canary_side(["abc"], 0xD8BB14D833D59559 / 2**64 - 1e-9).tolist() == [False]
    assert canary_side(["abc"], 0xD8BB14D833D59559 / 2**64 + 1e-9).tolist() == [True]
    assert canary_side([], 0.5).tolist() == []
    assert not canary_side(["abc"], 0.0).any()
