"""The canary: what the learner shows, moves and withdraws over a trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from canaries import CANARY, nudging, shown, story
from helpers import Home, republish
from learners import (
    NEVER,
    blind,
    broken,
    known,
    learned,
    live,
    moves,
    open_learner,
    part,
    promoted,
    same,
    series,
    show,
    spoiled,
)

from cifarctl import events
from cifarctl.data import Images
from cifarctl.registry.loading import load

# --- what the learner shows


def test_each_new_snapshot_moves_the_canary(home: Home, clean: Images) -> None:
    with open_learner(home, begin=nudging, canary=True) as learner:
        live(learner, part(clean, 0, 300), "clean")
        assert shown(home) == 4
    assert story(home) == [("promote", 2), ("promote", 3), ("promote", 4), ("remove", None)]
    assert home.registry.history(CANARY)[-1].why == "the learner has ended"
    assert moves(home) == [("reject", 1)] * 3


def test_what_was_learned_is_published_once_however_often_it_is_proposed(
    home: Home,
    clean: Images,
) -> None:
    with open_learner(home, begin=same, canary=True) as learner:
        live(learner, part(clean, 0, 300), "clean")
        assert shown(home) == 2
    assert home.registry.numbers() == [1, 2]
    assert story(home) == [("promote", 2), ("remove", None)]


def test_a_revised_snapshot_is_the_canary_too(home: Home, clean: Images) -> None:
    begin = series(known(home), blind(home, 0), revises=True)
    with open_learner(home, begin=begin, canary=True, update_every=NEVER) as learner:
        show(learner, part(clean, 0, 100), "a")
        list(learner.update("by hand"))
        assert shown(home) == 2
        show(learner, part(clean, 100, 125), "b")
        assert shown(home) == 3
        assert load(home.registry, 3).manifest.model == "mixture"


def test_without_a_share_for_it_there_is_no_canary(home: Home, clean: Images) -> None:
    with open_learner(home, begin=nudging) as learner:
        live(learner, part(clean, 0, 300), "clean")
    assert (story(home), home.registry.numbers()) == ([], [1])


@pytest.mark.parametrize("kind", ["spoiled", "not finite"])
def test_an_unsound_snapshot_is_not_a_canary(home: Home, clean: Images, kind: str) -> None:
    """The guard refuses the one, the other is given up before."""
    begin = spoiled if kind == "spoiled" else series(broken(home, float("nan")))
    with open_learner(home, begin=begin, canary=True) as learner:
        live(learner, part(clean, 0, 200), "clean")
    assert (story(home), home.registry.numbers()) == ([], [1])


def test_a_snapshot_that_the_guard_refuses_takes_the_one_before_away(home: Home, clean: Images) -> None:
    with open_learner(home, begin=series(known(home), broken(home, 0.0)), canary=True) as learner:
        live(learner, part(clean, 0, 100), "a")
        assert shown(home) == 2
        live(learner, part(clean, 100, 200), "b")
        assert shown(home) is None
    assert story(home) == [("promote", 2), ("remove", None)]
    assert "below the floor" in home.registry.history(CANARY)[-1].why


def test_a_trial_that_a_drift_begins_anew_waits_for_its_next_snapshot(
    home: Home,
    clean: Images,
    inverted: Images,
) -> None:
    with open_learner(home, begin=same, canary=True) as learner:
        show(learner, part(clean, 0, 200), "clean")
        assert shown(home) == 2
        events_of_learner = learner.learn([f"drift-{number}" for number in range(100)], part(inverted, 0, 100))
        next(event for event in events_of_learner if isinstance(event, events.DriftDetected))
        assert shown(home) is None
        list(events_of_learner)
        list(learner.update("by hand"))
        assert shown(home) == 2
    assert story(home) == [("promote", 2), ("remove", None)] * 2
    assert home.registry.history(CANARY)[1].why == "its trial is over"


def test_moving_production_by_hand_ends_the_trial(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    with open_learner(home, begin=same, canary=True) as learner:
        show(learner, part(clean, 0, 100), "a")
        assert shown(home) == 3
        home.registry.promote(other, who="somebody", why="by hand")
        show(learner, part(clean, 100, 150), "b")
        list(learner.follow_alias())
        assert shown(home) is None
        show(learner, part(clean, 150, 200), "c")
        assert load(home.registry, CANARY).manifest.parent == other


def test_nothing_new_is_shown_once_production_has_been_moved_by_hand(home: Home, clean: Images) -> None:
    """Between the move and the learner's look at it, and after it where that version cannot be begun from."""
    other = republish(home.registry)
    with open_learner(home, begin=nudging, canary=True) as learner:
        show(learner, part(clean, 0, 100), "a")
        home.registry.promote(other, who="somebody", why="by hand")
        (home.registry.path(other) / "model.safetensors").write_bytes(b"broken")
        show(learner, part(clean, 100, 200), "b")
        assert shown(home) == 3
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert shown(home) is None
        show(learner, part(clean, 200, 300), "c")
        assert shown(home) is None


def test_a_damaged_canary_is_not_promoted_but_published_again(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), canary=True) as learner:
        show(learner, part(inverted, 0, 100), "a")
        file = home.registry.path(2) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        show(learner, part(inverted, 100, 125), "b")
        assert (learner.champion, shown(home)) == (3, None)
    assert load(home.registry, "production").manifest.sha256 == home.registry.manifest(2).sha256


def test_several_production_aliases_have_canaries_of_their_own(home: Home, clean: Images) -> None:
    home.registry.promote(1, alias="staging", who="test", why="first")
    home.registry.promote(1, alias=CANARY, who="another", why="first")
    with open_learner(home, alias="staging", begin=same, canary=True) as learner:
        show(learner, part(clean, 0, 100), "a")
        assert home.registry.resolve("staging-canary") == 2
    assert shown(home) == 1


# --- restarts


def test_a_canary_that_is_still_on_trial_is_taken_over(home: Home, inverted: Images, tmp_path: Path) -> None:
    with open_learner(home, begin=learned(home), canary=True) as learner:
        show(learner, part(inverted, 0, 100), "a")
        learner.save()
        left = home.copy(tmp_path / "left")  # as if it were killed now
    with open_learner(left, begin=learned(left), canary=True) as learner:
        assert story(left) == [("promote", 2)]
        show(learner, part(inverted, 100, 125), "b")
        assert learner.champion == 2
    assert (story(left), left.registry.numbers()) == ([("promote", 2), ("remove", None)], [1, 2])


def test_a_canary_that_the_learner_knows_nothing_of_is_withdrawn_until_it_is_back_there(
    home: Home,
    inverted: Images,
    tmp_path: Path,
) -> None:
    with open_learner(home, begin=learned(home), canary=True) as learner:
        show(learner, part(inverted, 0, 75), "a")
        learner.save()
        show(learner, part(inverted, 75, 100), "b")
        assert shown(home) == 2
        left = home.copy(tmp_path / "left")  # as if it were killed now
    with open_learner(left, begin=learned(left), canary=True) as learner:
        assert shown(left) is None
        assert left.registry.history(CANARY)[-1].why == "left by a learner that was killed"
        show(learner, part(inverted, 75, 100), "b")
        assert (shown(left), left.registry.numbers()) == (2, [1, 2])


@pytest.mark.parametrize("canary", [True, False], ids=["learned anew", "no longer wanted"])
def test_a_canary_of_a_learner_that_had_promoted_it_is_withdrawn(
    home: Home,
    inverted: Images,
    tmp_path: Path,
    canary: bool,
) -> None:
    """It was killed after it had moved production, and before it withdrew the canary."""
    with open_learner(home, begin=learned(home), canary=True) as learner:
        show(learner, part(inverted, 0, 100), "a")
        learner.save()
        left = home.copy(tmp_path / "left")  # as if it were killed now
        show(learner, part(inverted, 100, 125), "b")
        decided = home.registry.history("production")[-1]
    left.registry.carry_out(decided)
    with open_learner(left, begin=learned(left), canary=canary) as learner:
        assert shown(left) is None
        show(learner, part(inverted, 100, 125), "b")
        assert (learner.champion, shown(left)) == (2, None)
    assert moves(left) == [("reject", 1), ("promote", 2)]


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
