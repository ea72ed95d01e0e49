"""What survives a restart of the learner, however it came about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Home
from learners import BATCH, Killed, Life, Outcome, Undisturbed, cut, lead, open_learner, part, wandering

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning import lineage as module
from cifarctl.registry import Alias, Move


def once(wanted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether something is wanted, but only the first time."""
    met = False

    def first(event: Any) -> bool:
        nonlocal met
        found = not met and wanted(event)
        met = met or found
        return found

    return first


def test_an_undisturbed_life_has_everything_in_it(undisturbed: Undisturbed) -> None:
    """The tests below interrupt it where something has just happened; what exactly differs with the arithmetic."""
    assert set(undisturbed.between(0, 150)) == {"reject"}
    assert undisturbed.between(150, 250).count("promote") >= 2
    assert "promote" in undisturbed.between(200, 250)
    assert "promote" in undisturbed.between(250, 350)
    assert "rollback" not in undisturbed.between(0, 350)
    assert "rollback" in undisturbed.between(350, 400)
    assert "reject" in undisturbed.between(400, 450)
    assert len(undisturbed.outcome.history) > undisturbed.moves[450]


@pytest.mark.parametrize("size", [7, 250])
def test_decisions_do_not_depend_on_how_images_are_cut_into_batches(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, size: int
) -> None:
    lead(home, wandering(home), cut(part(there_and_back, 0, 250), size))
    assert Outcome.of(home) == undisturbed.after(250)


def test_stopping_and_starting_changes_nothing(home: Home, there_and_back: Images, undisturbed: Undisturbed) -> None:
    """It dies after every batch, but has been saved before."""
    lead(home, wandering(home), cut(there_and_back, 120), *[({batch}, batch) for batch in range(1, 6)])
    assert Outcome.of(home) == undisturbed.outcome


def test_promotions_are_not_made_again_after_a_death(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    lead(home, wandering(home), cut(there_and_back, BATCH)[:7], ((1, 2, 3), 4), ((), 6))
    assert Outcome.of(home) == undisturbed.after(350)


def test_promotions_are_not_made_again_after_two_deaths(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    """The second learner is saved before it has come to what the first one had promoted."""
    batches = cut(there_and_back, 25)[:8]
    lead(home, wandering(home), batches, ((5,), 8), ((6,), 6))
    assert Outcome.of(home).without_refusals() == undisturbed.after(200).without_refusals()


def test_refusals_are_not_told_again_after_a_death(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    lead(home, wandering(home), cut(there_and_back, BATCH)[:3], ((1,), 2))
    assert Outcome.of(home) == undisturbed.after(150)


@pytest.fixture(scope="module")
def dead_after_rollback(trained: Home, there_and_back: Images, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What came of the life of a learner that had gone back since it was last saved when it died."""
    home = trained.copy(tmp_path_factory.mktemp("dead") / "registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_precision", lambda *_, **__: "float32")
        lead(home, wandering(home), cut(there_and_back, BATCH)[:9], ((7,), 8))
    return Outcome.of(home)


def test_nothing_is_promoted_again_after_a_rollback_and_a_death(
    undisturbed: Undisturbed, dead_after_rollback: Outcome
) -> None:
    assert dead_after_rollback.without_refusals() == undisturbed.after(450).without_refusals()


def test_a_lineage_goes_on_as_before_after_a_rollback_and_a_death(
    undisturbed: Undisturbed, dead_after_rollback: Outcome
) -> None:
    assert dead_after_rollback == undisturbed.after(450)


def test_chance_goes_on_as_before_where_a_lineage_begins_by_chance(
    home: Home, there_and_back: Images, tmp_path: Path
) -> None:
    twin = home.copy(tmp_path / "twin")
    batches = cut(there_and_back, BATCH)[:5]
    lead(home, wandering(home, at_once=True), batches)
    lead(twin, wandering(twin, at_once=True), batches, ((1, 2, 3), 4))
    assert Outcome.of(twin) == Outcome.of(home)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda event: isinstance(event, events.DriftDetected),
        lambda event: isinstance(event, events.RetrainStarted) and event.trigger == "drift",
        lambda event: isinstance(event, events.RetrainResult) and event.outcome == "promoted",
    ],
    ids=["after a drift was noticed", "while an update begins", "after a promotion"],
)
def test_dying_in_the_middle_of_a_batch(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, wanted: Callable[[Any], bool]
) -> None:
    batches = cut(there_and_back, BATCH)[:5]
    lead(home, wandering(home), batches, (range(1, 6), 5), fatal=once(wanted))
    assert Outcome.of(home) == undisturbed.after(250)


def test_dying_in_the_middle_of_an_update(home: Home, there_and_back: Images, undisturbed: Undisturbed) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Killed

    lead(home, wandering(home), cut(there_and_back, BATCH)[:5], (range(1, 6), 5), on_step=step)
    assert steps > 3
    assert Outcome.of(home) == undisturbed.after(250)


@pytest.mark.parametrize("moved", [False, True])
def test_dying_while_a_version_is_promoted(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between publishing the version and moving the alias to it, or right after that."""
    carry_out, fatal = home.registry.carry_out, once(lambda move: move.action == "promote")

    def interrupted(move: Move) -> Alias:
        dies = fatal(move)
        if dies and not moved:
            raise Killed
        alias = carry_out(move)
        if dies:
            raise Killed
        return alias

    monkeypatch.setattr(home.registry, "carry_out", interrupted)
    lead(home, wandering(home), cut(there_and_back, BATCH)[:5], (range(1, 6), 5))
    found, expected = Outcome.of(home), undisturbed.after(250)
    if moved:
        assert found == expected
    else:  # what was published stays behind, which nobody has ever promoted
        numbers = sorted(expected.versions)[1:]
        assert found.versions[2] == found.versions[3]
        assert [found.versions[number + 1] for number in numbers] == [expected.versions[number] for number in numbers]
        assert [(action, why) for action, _, why in found.history] == [
            (action, why) for action, _, why in expected.history
        ]


def test_the_usual_strategy_survives_a_death(usual: Life) -> None:
    """It has promoted since it was last saved, and goes on as if nothing had been."""
    with open_learner(usual.left) as learner:
        assert learner.status().labelled == 150
        assert learner.champion < usual.left.registry.resolve("production")
        for ids, images in cut(usual.stream, BATCH):
            list(learner.learn(ids, images))
    assert Outcome.of(usual.left) == Outcome.of(usual.home)
