"""The alias and other hands: versions that people or other learners promote and withdraw."""

from __future__ import annotations

import pytest
from helpers import ALL, Home, republish
from learners import learned, live, moves, of, open_learner, part, same, show

from cifarctl import events, models
from cifarctl.data import Images
from cifarctl.errors import DataError, SettingsError, Superseded, VersionNotFound
from cifarctl.learning.checkpoints import CHECKPOINT
from cifarctl.online.strategies import Start, Strategy
from cifarctl.registry import Description, Move
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish


def test_a_version_promoted_by_hand_becomes_the_champion(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return same(start)

    with open_learner(home, begin=begin) as learner:
        assert list(learner.follow_alias()) == []
        home.registry.promote(other, who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]
        assert list(learner.follow_alias()) == []
        assert learner.champion == other
        home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(other, 1)]
        (result,) = of(events.RetrainResult, show(learner, part(clean, 0, 100), "clean"))
        assert result.champion["version"] == 1
    assert len(begun) == 3  # a lineage from each


def test_what_was_withdrawn_by_hand_is_not_proposed_again(home: Home, inverted: Images) -> None:
    """The lineage ends with it: what comes next begins from what serves, and has to win a trial of its own."""
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start) if len(begun) == 1 else same(start)

    with open_learner(home, begin=begin) as learner:
        live(learner, part(inverted, 0, 200), "a")
        assert learner.champion == 3
        for _ in range(2):
            home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, 1)]
        assert begun[1].snapshot.architecture == home.registry.manifest(1).model
        found = live(learner, part(inverted, 200, 400), "b")
    assert {result.outcome for result in of(events.RetrainResult, found)} == {"rejected"}
    assert home.registry.resolve("production") == 1
    assert home.registry.numbers() == [1, 2, 3]


def test_nothing_is_learned_from_a_version_that_knows_what_it_is_judged_by(home: Home, clean: Images) -> None:
    """At the start it is refused; where somebody promotes it later the learner stays with the one before."""
    full = republish(home.registry, seen=ALL)
    with open_learner(home) as learner:
        home.registry.promote(full, who="somebody", why="by hand")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "stays with version 1" in notice.message
        assert "without --full" in notice.message
        assert list(learner.follow_alias()) == []
        assert learner.champion == 1
    with pytest.raises(DataError, match=rf"version {full} was trained on train, validation, stream images"):
        open_learner(home)
    with open_learner(home, allow_full=True) as learner:
        assert learner.champion == full


def test_what_was_imported_may_be_learned_from(home: Home) -> None:
    """The tutorial's model, say: nobody can tell what it has seen."""
    first = load(home.registry, 1)
    seen = first.manifest.split.model_copy(update={"seen": ALL})
    description = Description.like(first.manifest, split=seen, settings={}, metrics={}, parent=None, origin="import")
    imported = publish(home.registry, first.model, description)
    home.registry.promote(imported.version, who="somebody", why="by hand")
    with open_learner(home) as learner:
        assert learner.champion == imported.version


def test_an_alias_that_went_away_and_came_back_changes_nothing(home: Home) -> None:
    other = republish(home.registry)
    with open_learner(home) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == []
        assert learner.champion == 1


def test_a_damaged_version_is_not_adopted(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    with open_learner(home) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        (home.registry.path(other) / "model.safetensors").write_bytes(b"broken")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "stays with version 1" in notice.message
        assert list(learner.follow_alias()) == []
        show(learner, part(clean, 0, 40), "clean")
        assert learner.champion == 1


def test_a_version_with_other_classes_is_not_adopted(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        manifest = home.registry.manifest(1)
        description = Description.like(
            manifest,
            model="net",
            arguments={"classes": 3},
            classes=("a", "b", "c"),
            settings={},
            metrics={},
            parent=None,
            origin="train",
        )
        other = publish(home.registry, models.build("net", {"classes": 3}), description)
        home.registry.promote(other.version, who="somebody", why="by mistake")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "has other classes" in notice.message
        assert learner.champion == 1
        assert list(learner.follow_alias()) == []
        show(learner, part(clean, 0, 20), "a")


def test_a_move_of_the_alias_during_an_update_wins(home: Home, inverted: Images) -> None:
    other = republish(home.registry)
    interfering = False

    def interfere() -> None:
        if interfering:
            home.registry.promote(other, who="somebody", why="by hand")

    with open_learner(home, begin=learned(home), on_step=interfere) as learner:
        live(learner, part(inverted, 0, 175), "a")
        assert learner.champion == 3
        interfering = True
        (result,) = of(events.RetrainResult, show(learner, part(inverted, 175, 200), "b"))
        assert result.outcome == "rejected"
        assert any(reason == "not promoted: somebody else has moved the alias production" for reason in result.reasons)
        assert home.registry.resolve("production") == other
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, other)]


def test_a_refusal_that_somebody_else_precedes_is_not_recorded(home: Home, clean: Images) -> None:
    """It is one of a challenger of what was in production then."""
    other = republish(home.registry)
    with open_learner(home, begin=same, update_every=50) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        (result,) = of(events.RetrainResult, show(learner, part(clean, 0, 100), "a"))
        assert "not recorded: alias production names version 2" in result.reasons[-1]
        assert [move.action for move in home.registry.history()] == ["promote", "promote"]
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]


def test_another_alias_can_be_learned_for(home: Home, inverted: Images) -> None:
    home.registry.promote(1, alias="canary", who="test", why="first")
    with open_learner(home, alias="canary", begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 150), "inverted")
    assert moves(home, "canary") == [("reject", 1), ("promote", 2)]
    assert home.registry.resolve("production") == 1


def test_what_another_learner_has_taken_over_is_left_alone(home: Home, inverted: Images) -> None:
    """It neither moves the alias nor writes a checkpoint, whatever it goes on to decide."""
    home.registry.begin_epoch(1)
    with open_learner(home, begin=learned(home), epoch=1) as old:
        live(old, part(inverted, 0, 125), "inverted")
        old.save()
        kept = (home.registry.dir / "learner" / CHECKPOINT).read_bytes()
        home.registry.begin_epoch(2)
        live(old, part(inverted, 125, 150), "inverted")
        assert moves(home)[-1] == ("promote", 2)
        with pytest.raises(Superseded, match="this is epoch 2"):
            old.save()
    assert (home.registry.dir / "learner" / CHECKPOINT).read_bytes() == kept


def test_a_decision_is_committed_before_it_is_carried_out(home: Home, inverted: Images) -> None:
    """And where that is refused, it is not carried out."""
    committed: list[Move] = []

    def commit(move: Move) -> None:
        assert move not in home.registry.history()
        if move.action == "promote":
            raise Superseded("another learner has taken over")
        committed.append(move)

    with open_learner(home, begin=learned(home), epoch=3, commit=commit) as learner, pytest.raises(Superseded):
        live(learner, part(inverted, 0, 400), "inverted")
    assert [move.action for move in committed] == ["reject"]
    assert committed[0].same(home.registry.history()[-1])
    assert committed[0].epoch == 3
    assert home.registry.resolve("production") == 1


def test_without_a_champion_there_is_nothing_to_learn_from(home: Home) -> None:
    with pytest.raises(VersionNotFound), open_learner(home, alias="staging"):
        pass


def test_an_unknown_strategy(home: Home) -> None:
    with pytest.raises(SettingsError, match=r"online\.strategy = magic: no such strategy; there are .*mixture"):
        open_learner(home, strategy="magic")
