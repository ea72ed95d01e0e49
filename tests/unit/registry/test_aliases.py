"""References and aliases: what they name, how they move, and what the history tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import Clock, open_registry, promote, publish, remove, rollback

from cifarctl.errors import AliasConflict, RegistryError, Superseded, VersionNotFound
from cifarctl.registry import Move, Registry
from cifarctl.registry.history import Action


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


# --- references


def test_references(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 2)
    for reference in (2, "2", "000002", "v2", "production"):
        assert registry.resolve(reference) == 2
    assert registry.resolve("latest") == 3


@pytest.mark.parametrize("reference", [0, -1, 9, "v9", "staging", "Production", "", "../000001", "٣", "9" * 5000])
def test_a_reference_to_nothing_says_what_there_is(registry: Registry, reference: str | int) -> None:
    publish(registry, 2)
    promote(registry, 1)
    with pytest.raises(VersionNotFound, match=r"there is 1, 2, production = 1"):
        registry.resolve(reference)


def test_latest_of_nothing_tells_the_remedy(registry: Registry) -> None:
    with pytest.raises(VersionNotFound, match="cifarctl train"):
        registry.resolve("latest")


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True))
@settings(max_examples=12, deadline=None)
def test_well_formed_alias_names_work(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    registry = open_registry(tmp_path_factory.mktemp("alias"))
    publish(registry)
    if name == "latest" or (name[0] == "v" and name[1:].isdigit()):
        with pytest.raises(RegistryError, match="not allowed"):
            promote(registry, 1, alias=name)
    else:
        assert promote(registry, 1, alias=name) == registry.alias(name) == registry.aliases()[name]
        assert registry.resolve(name) == 1


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_other_alias_names_are_refused_and_leave_nothing(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    good = name[:1] in set("abcdefghijklmnopqrstuvwxyz") and len(name) <= 64
    if good and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
        return
    registry = open_registry(tmp_path_factory.getbasetemp() / "never-written")
    with pytest.raises(RegistryError, match="not allowed"):
        promote(registry, 1, alias=name)
    with pytest.raises(RegistryError, match="not allowed"):
        registry.alias(name)
    assert not registry.dir.exists()


@pytest.mark.parametrize("name", ["latest", "v7", "v0000"])
def test_reserved_alias_names(registry: Registry, name: str) -> None:
    publish(registry)
    with pytest.raises(RegistryError, match="not allowed"):
        promote(registry, 1, alias=name)


# --- moves


def test_promotion_is_recorded(tmp_path: Path) -> None:
    clock = Clock()
    registry = open_registry(tmp_path, clock)
    publish(registry, 2)
    promote(registry, 1)
    clock.advance(1)
    alias = registry.promote("latest", who="somebody", why="better\nby far")
    assert alias == registry.alias("production")
    assert (alias.version, alias.generation) == (2, 2)
    assert alias.moved == "2026-01-01T01:00:00.000+00:00"
    first, second = registry.history("production")
    assert (first.from_version, first.to_version, first.action) == (None, 1, "promote")
    assert (second.from_version, second.to_version, second.generation) == (1, 2, 2)
    assert (second.who, second.why, second.time) == ("somebody", "better\nby far", alias.moved)


def test_promoting_the_current_version_changes_nothing(registry: Registry) -> None:
    publish(registry)
    alias = promote(registry, 1)
    assert promote(registry, 1) == alias
    assert len(registry.history()) == 1


def test_promoting_nothing_is_refused(registry: Registry) -> None:
    publish(registry)
    with pytest.raises(VersionNotFound):
        promote(registry, 2)
    assert registry.aliases() == {}


def test_of_two_promoters_with_one_belief_the_second_loses(registry: Registry) -> None:
    publish(registry, 3)
    assert promote(registry, 1, expected_generation=0).generation == 1
    promote(registry, 2, expected_generation=1)
    with pytest.raises(AliasConflict, match="version 2 at generation 2, not 1"):
        promote(registry, 3, expected_generation=1)
    assert registry.resolve("production") == 2
    assert len(registry.history()) == 2


def decided(registry: Registry, version: int, action: Action = "promote", **values: Any) -> Move:
    """A learner's decision about production as it is."""
    alias = registry.alias("production")
    assert alias is not None
    facts = {
        "time": "2026-01-01T00:00:00+00:00",
        "alias": "production",
        "action": action,
        "from_version": alias.version,
        "to_version": version,
        "who": "learner",
        "why": "because",
        "generation": alias.generation + (action != "reject"),
    }
    return Move.model_validate(facts | values)


def test_an_alias_never_takes_an_older_epoch(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    assert registry.carry_out(decided(registry, 2, epoch=5)).epoch == 5
    promote(registry, 1)  # a person has no epoch, and does not reopen the door to an old learner
    for action in ("promote", "rollback", "reject"):
        with pytest.raises(AliasConflict, match="epoch 4 is over"):
            registry.carry_out(decided(registry, 2, action, epoch=4))
    assert registry.carry_out(decided(registry, 3, epoch=5)).version == 3


@pytest.mark.parametrize("action", ["promote", "rollback", "reject"])
def test_a_decision_is_carried_out_once(registry: Registry, action: Action) -> None:
    publish(registry, 2)
    for version in (1, 2):
        promote(registry, version)
    move = decided(registry, 1, action, epoch=2, at=77)
    alias = registry.carry_out(move)
    assert alias.version == (2 if action == "reject" else 1)
    assert registry.carry_out(move) == alias == registry.alias("production")
    found = [known for known in registry.history() if known.who == "learner"]
    assert [(known.action, known.to_version, known.epoch, known.at) for known in found] == [(action, 1, 2, 77)]


def test_a_decision_on_what_has_moved_since_is_not_carried_out(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    move = decided(registry, 2)
    promote(registry, 3)
    with pytest.raises(AliasConflict, match="somebody moved it first"):
        registry.carry_out(move)
    with pytest.raises(AliasConflict, match="is not set"):
        registry.carry_out(move.model_copy(update={"alias": "staging"}))
    with pytest.raises(VersionNotFound):
        registry.carry_out(decided(registry, 9))
    assert registry.resolve("production") == 3


def test_epochs_rise_whatever_becomes_of_their_file(registry: Registry) -> None:
    publish(registry, 2)
    promote(registry, 1)
    for after, epoch in ((0, 1), (0, 2), (6, 7)):
        assert registry.next_epoch(after) == epoch
        registry.begin_epoch(epoch)
    registry.begin_epoch(3)  # over by now
    registry.carry_out(decided(registry, 2, epoch=7))
    (registry.dir / "learner" / "epoch-production").unlink()
    assert registry.next_epoch() == 8
    registry.begin_epoch(8)
    with registry.in_epoch(8):
        pass
    with pytest.raises(Superseded, match="epoch 7 is over, this is epoch 8"), registry.in_epoch(7):
        pass


def test_rollback_walks_back_one_step_at_a_time(registry: Registry) -> None:
    publish(registry, 4)
    for version in (1, 2, 3):
        promote(registry, version)
    assert rollback(registry).version == 2
    assert rollback(registry).version == 1
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)
    promote(registry, 4)
    assert rollback(registry).version == 1
    assert [move.action for move in registry.history()] == ["promote"] * 3 + ["rollback"] * 2 + [
        "promote",
        "rollback",
    ]


def test_rollback_of_an_alias_that_was_never_set(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)


def test_aliases_have_histories_of_their_own(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    promote(registry, 3, alias="canary")
    promote(registry, 2)
    assert rollback(registry).version == 1
    assert registry.resolve("canary") == 3
    with pytest.raises(RegistryError, match="canary has nothing"):
        rollback(registry, alias="canary")


def test_an_alias_that_was_taken_away_names_nothing(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    promote(registry, 2, alias="canary")
    assert remove(registry, "canary")
    assert not remove(registry, "canary")
    assert (registry.alias("canary"), list(registry.aliases())) == (None, ["production"])
    with pytest.raises(VersionNotFound, match=r"no version or alias 'canary' .*, production = 1$"):
        registry.resolve("canary")
    (made, taken) = registry.history("canary")
    assert (taken.action, taken.from_version, taken.to_version) == ("remove", 2, None)
    assert (taken.who, taken.why, taken.generation) == ("test", "over", made.generation + 1)
    with pytest.raises(RegistryError, match="canary has nothing to go back to"):
        rollback(registry, alias="canary")


def test_an_alias_that_comes_back_begins_anew_but_its_generations_never_come_again(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 2)
    registry.carry_out(decided(registry, 1, epoch=5))
    remove(registry)
    with pytest.raises(AliasConflict, match="is not set at generation 0, not 1"):
        promote(registry, 2, expected_generation=1)
    assert promote(registry, 2, expected_generation=0).generation == 4
    with pytest.raises(AliasConflict):
        promote(registry, 3, expected_generation=0)
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)
    with pytest.raises(AliasConflict, match="epoch 4 is over"):
        registry.carry_out(decided(registry, 3, epoch=4))
    promote(registry, 3)
    assert rollback(registry).version == 2
    assert [move.to_version for move in registry.history()] == [2, 1, None, 2, 3, 2]


@pytest.mark.parametrize("name", ["latest", "v7", "Production", ""])
def test_what_can_be_no_alias_is_not_taken_away(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="not allowed"):
        remove(registry, name)
    assert not registry.dir.exists()
