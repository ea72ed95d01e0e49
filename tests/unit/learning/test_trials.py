"""Trials: what wins, what follows what has won, and when updates are due."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from helpers import Home
from learners import (
    NEVER,
    accuracy,
    blind,
    broken,
    inverting,
    joined,
    known,
    learned,
    live,
    moves,
    of,
    open_learner,
    part,
    promoted,
    same,
    series,
    show,
    until,
)

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning.learner import GRID
from cifarctl.online.strategies import Snapshot
from cifarctl.registry import Description
from cifarctl.registry.publishing import publish

# --- models, and lineages of them


def promote(home: Home, snapshot: Snapshot) -> int:
    """Put a model into production by hand, as one that was trained; its version."""
    description = Description.like(
        home.registry.manifest(1),
        model=snapshot.architecture,
        arguments=snapshot.arguments,
        settings={},
        metrics={},
        parent=None,
        origin="train",
    )
    manifest = publish(home.registry, copy.deepcopy(snapshot.model), description)
    home.registry.promote(manifest.version, who="somebody", why="by hand")
    return manifest.version


# --- the gate


def test_a_trial_is_won_between_two_updates(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        first = show(learner, part(inverted, 0, 100), "a")
        assert [result.outcome for result in of(events.RetrainResult, first)] == ["rejected"]
        found = show(learner, part(inverted, 100, 125), "b")
        result = found[-1]
        assert of(events.RetrainStarted, found) == []
        assert isinstance(result, events.RetrainResult)
        assert (result.outcome, result.examples, learner.champion) == ("promoted", 25, 2)
    pairs = part(inverted, 100, 125)  # what both predicted before either had learned from it
    assert result.champion["stream_accuracy"] == pytest.approx(accuracy(home, 1, pairs))
    assert result.challenger["stream_accuracy"] == pytest.approx(accuracy(home, 2, pairs))


def test_less_error_allowed_makes_a_trial_longer(home: Home, inverted: Images, tmp_path: Path) -> None:
    needed = []
    for alpha in (0.1, 1e-9):
        own = home.copy(tmp_path / str(alpha))
        with open_learner(own, begin=learned(own), gate_alpha=alpha, update_every=NEVER) as learner:
            show(learner, part(inverted, 0, 100), "a")
            list(learner.update("by hand"))
            until(events.RetrainResult, learner, part(inverted, 100, 300), "b")
            needed.append(learner.status().labelled)
    assert needed[0] < needed[1]


def test_a_drift_begins_the_trial_anew(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=same) as learner:
        show(learner, part(clean, 0, 200), "clean")
        before = learner.status().shadow
        drift = until(events.DriftDetected, learner, inverted, "inverted")
        after = learner.status().shadow
        assert before is not None
        assert after is not None
        assert before.images == 100
        assert (
            after.images <= learner.status().labelled - drift.at + GRID
        )  # noticed as images came, before their labels
        assert after.wanted > before.wanted  # each trial has less to spend


def test_what_has_won_is_followed_without_another_trial(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        found = live(learner, part(inverted, 0, 300), "inverted")
    results = of(events.RetrainResult, found)
    assert [result.outcome for result in results] == ["rejected", "promoted", "promoted", "promoted"]
    assert moves(home) == [("reject", 1), ("promote", 2), ("promote", 3), ("promote", 4)]
    assert [home.registry.manifest(version).parent for version in (2, 3, 4)] == [1, 2, 3]
    assert [home.registry.manifest(version).metrics["labelled"] for version in (2, 3, 4)] == [125, 200, 300]
    assert any("held-out images" in reason for reason in results[-1].reasons)


def test_a_revised_snapshot_takes_part_without_an_update(home: Home, inverted: Images) -> None:
    """It takes the place of the challenger, whose trial it continues, and afterwards follows."""
    begin = series(known(home), inverting(home), inverting(home, 0.4), revises=True)
    with open_learner(home, begin=begin, update_every=NEVER) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))  # what is no better
        found = show(learner, part(inverted, 100, 225), "b")
    assert of(events.RetrainStarted, found) == []
    assert learner.updates == 1
    assert {result.outcome for result in of(events.RetrainResult, found)} == {"promoted"}
    (first, second, *_) = promoted(found)
    assert (first.champion["version"], first.challenger["version"]) == (1, 2)
    assert (second.champion["version"], second.challenger["version"]) == (2, 3)


def test_what_falls_on_held_out_images_is_not_followed(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=series(inverting(home), known(home), inverting(home, 0.2))) as learner:
        show(learner, part(inverted, 0, 200), "a")  # the bad one at 200
        assert learner.champion == 2
        show(learner, part(inverted, 200, 300), "b")
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2), ("promote", 3)]
    assert "significant loss on held-out images" in home.registry.history("production")[3].why


def test_what_falls_below_the_guard_is_not_followed(home: Home, clean: Images) -> None:
    """Inputs that have not moved, and next to nothing held out: only the validation images can tell."""
    start = promote(home, blind(home, 3))
    begin = series(known(home), blind(home, 6))
    with open_learner(home, begin=begin, holdout_every=150) as learner:
        live(learner, part(clean, 0, 200), "clean")
    history = home.registry.history("production")[2:]
    assert [(move.action, move.to_version) for move in history] == [("reject", start), ("promote", 3), ("reject", 3)]
    assert "validation accuracy" in history[2].why.split(";")[0]
    assert "below the floor" in history[2].why
    assert "not below" not in history[2].why


def test_a_spoiled_challenger_never_follows(home: Home, inverted: Images) -> None:
    """The guard counts for nothing while the inputs have moved."""
    with open_learner(home, begin=series(inverting(home), broken(home, 0.0))) as learner:
        live(learner, part(inverted, 0, 200), "inverted")
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2)]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_what_answers_nothing_finite_never_follows(home: Home, inverted: Images, value: float) -> None:
    """Where nothing is held out that could tell."""
    begin = series(inverting(home), broken(home, value))
    with open_learner(home, begin=begin, holdout_every=500) as learner:
        live(learner, part(inverted, 0, 200), "inverted")
        assert learner.champion == 2
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2)]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_what_answers_nothing_finite_never_wins(home: Home, inverted: Images, value: float) -> None:
    """Not even where all images are of the class that such a network seems to name."""
    first_class = inverted.take((inverted.labels == 0).nonzero()[:, 0])
    stream = joined(part(inverted, 0, 100), first_class)
    with open_learner(home, begin=series(broken(home, value))) as learner:
        live(learner, stream, "inverted")
        assert learner.champion == 1
    assert home.registry.resolve("production") == 1


def test_a_revision_with_non_finite_predictions_never_follows(home: Home, inverted: Images) -> None:
    begin = series(inverting(home), inverting(home), broken(home, float("nan")), revises=True)
    with open_learner(home, begin=begin, holdout_every=500, update_every=NEVER) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        show(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
    assert home.registry.resolve("production") == 2


# --- when


def test_an_update_is_due_by_count(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same, update_every=150) as learner:
        assert show(learner, part(clean, 0, 149), "a") == []
        assert learner.status().until_update == 1
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 149, 150), "b"))
        assert (started.trigger, started.examples, learner.updates) == ("150 labelled images", 150, 1)
        assert (learner.due(), learner.fresh, learner.status().until_update) == (None, 0, 150)


def test_no_update_before_there_are_enough_examples(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same, update_every=25) as learner:
        assert show(learner, part(clean, 0, 99), "a") == []
        assert learner.due() is None
        result = learner.not_enough(99)
        assert (result.outcome, result.examples, result.challenger) == ("not_enough_data", 99, {})
        assert result.champion["version"] == 1
        assert result.reasons == ["99 labelled examples since the last update, 100 are wanted"]
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 99, 100), "b"))
        assert started.examples == 100
    assert moves(home) == [("reject", 1)]


def test_an_update_is_due_by_time(home: Home, clean: Images) -> None:
    now = 0.0
    with open_learner(home, begin=same, update_every=NEVER, clock=lambda: now) as learner:
        show(learner, part(clean, 0, 120), "a")
        now = 299.0
        assert learner.due() is None
        now = 300.0
        assert learner.due() == "300 s"
        list(learner.update("300 s"))
        now = 700.0
        assert learner.due() is None  # no new examples to learn from
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 120, 240), "b"))
        assert (started.trigger, started.examples) == ("400 s", 55)


def test_an_update_can_be_broken_off_and_is_due_again(home: Home, clean: Images) -> None:
    class Stopped(Exception):
        pass

    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stopped

    with open_learner(home, strategy="replay", on_step=stop) as learner:
        with pytest.raises(Stopped):
            show(learner, part(clean, 0, 100), "clean")
        assert (learner.updates, learner.fresh, learner.due()) == (0, 100, "100 labelled images")
        assert moves(home) == []
        show(learner, part(clean, 100, 125), "more")
        assert (learner.updates, learner.fresh, learner.due()) == (1, 0, None)
