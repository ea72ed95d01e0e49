"""Which ids the canary answers."""

from __future__ import annotations

import numpy as np
from canaries import CANARY, shown, story
from helpers import Home
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import (
    learned,
    moves,
    open_learner,
    part,
    promoted,
    show,
)

from cifarctl.data import Images
from cifarctl.serving.canary_routing import canary_side

# --- which ids


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


# --- what the learner shows


def test_the_snapshot_on_trial_is_the_canary_and_is_promoted_as_the_version_that_it_is(
    home: Home,
    inverted: Images,
) -> None:
    with open_learner(home, begin=learned(home), canary=True) as learner:
        show(learner, part(inverted, 0, 75), "a")
        assert shown(home) is None
        show(learner, part(inverted, 75, 100), "b")
        assert (shown(home), home.registry.resolve("production"), learner.champion) == (2, 1, 1)
        manifest = home.registry.manifest(2)
        assert (manifest.parent, manifest.origin, manifest.metrics["base"]) == (1, "learner", 1.0)
        (result,) = promoted(show(learner, part(inverted, 100, 125), "c"))
        assert (result.challenger["version"], learner.champion) == (2, 2)
        assert (shown(home), home.registry.numbers()) == (None, [1, 2])
        show(learner, part(inverted, 125, 200), "d")  # what follows is no canary
        assert moves(home)[-1] == ("promote", 3)
    assert story(home) == [("promote", 2), ("remove", None)]
    first, last = home.registry.history(CANARY)
    assert (first.who, last.who, last.from_version, last.why) == ("learner", "learner", 2, "version 2 is promoted")
    assert "on trial against version 1: " in first.why
