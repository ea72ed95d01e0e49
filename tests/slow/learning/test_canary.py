"""The canary over whole lives of the learner."""

from __future__ import annotations

from pathlib import Path

import pytest
from canaries import CANARY, nudging, shown, story
from helpers import Home, open_registry
from learners import (
    BATCH,
    Outcome,
    Series,
    Undisturbed,
    cut,
    inverting,
    lead,
    live,
    open_learner,
    part,
    show,
    until,
    wandering,
)

from cifarctl import events
from cifarctl.data import Images
from cifarctl.online.strategies import Start, Strategy
from cifarctl.registry.loading import load

# --- what the learner shows


def test_after_a_rollback_the_next_snapshot_is_on_trial_again(
    home: Home,
    clean: Images,
    inverted: Images,
) -> None:
    def begin(start: Start) -> Strategy:
        return Series((inverting(home), inverting(home, 0.4)), later=(start.snapshot,))

    with open_learner(home, begin=begin, update_every=50, canary=True) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        until(events.RolledBack, learner, part(clean, 0, 100), "clean")
        list(learner.update("by hand"))
        canary = load(home.registry, CANARY).manifest
        assert (learner.champion, canary.parent, canary.model) == (1, 1, home.registry.manifest(1).model)
        shadow = learner.status().shadow
        assert shadow is not None
        assert (shadow.version, shadow.images) == (None, 0)


def test_of_a_long_trial_only_the_newest_snapshots_are_kept(trained: Home, clean: Images, tmp_path: Path) -> None:
    trained.copy(tmp_path / "registry")
    home = Home(open_registry(tmp_path / "registry", keep=2), trained.dataset, trained.split)
    with open_learner(home, begin=nudging, canary=True, update_every=25, min_examples=25) as learner:
        live(learner, part(clean, 0, 300), "clean")
        assert shown(home) == 13
    # The clean-up came with version 10. Version 2 had begun the trial, and 8 is what a rollback would have gone to.
    assert home.registry.numbers() == [1, 2, 8, 9, 10, 11, 12, 13]
    assert home.registry.resolve("production") == 1


# --- restarts


def decisions(outcome: Outcome) -> list[tuple[str, str]]:
    """What was decided, and on what, however versions are numbered."""
    return [(action, outcome.versions[version]) for action, version, _ in outcome.history]


@pytest.mark.parametrize("dies", [False, True], ids=["in one life", "in three"])
def test_decisions_do_not_depend_on_canaries(
    home: Home,
    there_and_back: Images,
    undisturbed: Undisturbed,
    dies: bool,
) -> None:
    lives = [((1, 2), 4), ((4,), 5)] if dies else []
    lead(home, wandering(home), cut(there_and_back, BATCH), *lives, canary=True)
    assert decisions(Outcome.of(home)) == decisions(undisturbed.outcome)
    assert {action for action, _ in story(home)} == {"promote", "remove"}
    assert shown(home) is None
