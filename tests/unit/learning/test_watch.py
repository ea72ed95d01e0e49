"""Going back: the watch over what was promoted."""

from __future__ import annotations

from helpers import Home, republish, spoil
from learners import learned, live, of, open_learner, part, promoted, show, until

from cifarctl import events
from cifarctl.data import Images


def test_a_good_promotion_stays(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        found = live(learner, part(inverted, 0, 300), "inverted")
        assert of(events.RolledBack, found) == []
        assert learner.champion == 4


def test_the_watch_ends_and_begins_again_with_what_follows(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), watch=50, update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        show(learner, part(inverted, 200, 250), "c")
        assert learner.status().shadow is None
        assert of(events.RolledBack, show(learner, part(clean, 0, 25), "d")) == []
        (result,) = promoted(learner.update("by hand"))
        watched = learner.status().shadow
        assert watched is not None
        assert (watched.version, watched.images) == (1, 0)
        back = until(events.RolledBack, learner, part(clean, 25, 100), "e")
        assert (back.old, back.new) == (result.challenger["version"], 1)


def test_the_watch_is_as_long_as_it_is_said_to_be(home: Home, clean: Images, inverted: Images) -> None:
    """The last of its images count."""
    with open_learner(home, begin=learned(home), watch=25, update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        found = show(learner, part(clean, 0, 25), "d")
        assert [event.new for event in of(events.RolledBack, found)] == [1]


def test_a_promotion_by_hand_ends_the_watch(home: Home, clean: Images, inverted: Images) -> None:
    other = republish(home.registry, spoil)
    with open_learner(home, begin=learned(home), update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        home.registry.promote(other, who="somebody", why="they must know")
        # Before the learner has noticed: the rollback that it wants comes too late.
        found = show(learner, part(clean, 0, 100), "c")
        assert of(events.RolledBack, found) == []
        (notice,) = of(events.Notice, found)
        assert "version 1 performs better, but rolling back failed" in notice.message
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, other)]
        assert of(events.RolledBack, show(learner, part(clean, 100, 200), "d")) == []
    assert home.registry.resolve("production") == other
