"""What survives a restart of the learner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Home, republish
from learners import known, learned, live, of, open_learner, part, promoted, same, series, show

from cifarctl import events
from cifarctl.data import Images
from cifarctl.errors import RegistryError
from cifarctl.learning.checkpoints import CHECKPOINT
from cifarctl.online.strategies import Start, Strategy


def test_a_lineage_begins_again_from_the_version_that_it_began_with(home: Home, inverted: Images) -> None:
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start)

    with open_learner(home, begin=begin) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        assert learner.champion == 2
        learner.save()
    with open_learner(home, begin=begin):
        assert begun[-1].snapshot.architecture == begun[0].snapshot.architecture


def test_a_checkpoint_keeps_buffer_and_figures(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        show(learner, part(inverted, 0, 160), "a")
        before = learner.status()
        tensors, state = learner.buffer.dump()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        learner.save()
    with open_learner(home, begin=learned(home)) as learner:
        assert learner.started().size == before.size
        assert learner.status() == before
        assert learner.fresh == 60
        found, found_state = learner.buffer.dump()
        assert found_state == state
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        # What was read after the last commit comes again, and is known.
        assert show(learner, part(inverted, 0, 160), "a") == []
        assert learner.status() == before


def test_what_was_not_saved_is_forgotten(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 40), "a")
        learner.save()
        show(learner, part(clean, 40, 80), "b")
    with open_learner(home) as learner:
        assert learner.status().labelled == 40
        show(learner, part(clean, 40, 80), "b")
        assert learner.status().labelled == 80


@pytest.mark.parametrize("change", [{"buffer_size": 300}, {"holdout_size": 50}, {"holdout_every": 9}], ids=str)
def test_a_checkpoint_of_other_sizes_is_left_aside(home: Home, clean: Images, change: dict[str, Any]) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 80), "a")
        learner.save()
    with open_learner(home, **change) as learner:
        assert learner.status().labelled == 0
        assert learner.fresh == 0


def test_a_damaged_checkpoint_is_named_and_the_lock_given_back(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 80), "a")
        learner.save()
        path = learner.file.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RegistryError, match=rf"{CHECKPOINT} cannot be read .*move it away to start over"):
        open_learner(home).__enter__()
    path.unlink()
    with open_learner(home) as learner:
        assert learner.status().labelled == 0


def test_another_strategy_begins_a_lineage_of_its_own(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), strategy="mixture") as learner:
        show(learner, part(inverted, 0, 140), "a")
        assert learner.champion == 2
        learner.save()
    with open_learner(home, begin=series(known(home)), strategy="replay") as learner:
        assert (learner.champion, learner.status().labelled, learner.status().shadow) == (2, 140, None)
        (result,) = of(events.RetrainResult, show(learner, part(inverted, 140, 200), "b"))
        assert result.outcome == "rejected"
        assert "no images predicted by both yet" in result.reasons[0]  # on trial, of which nothing has been seen


def test_following_relabelling_can_be_switched_on_and_off(home: Home, clean: Images) -> None:
    for start, followed in ((0, False), (20, True), (40, False)):
        with open_learner(home, follow_relabelling=followed) as learner:
            assert learner.status().labelled == start
            show(learner, part(clean, start, start + 20), f"{start}")
            learner.save()


@pytest.mark.parametrize("saved", [True, False], ids=["after the promotion", "before it"])
def test_an_alias_that_was_moved_meanwhile_is_begun_from(home: Home, inverted: Images, saved: bool) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
        if saved:
            learner.save()
    home.registry.rollback(who="somebody", why="by hand")
    with open_learner(home, begin=same) as learner:
        status = learner.status()
        assert (learner.champion, status.labelled, status.shadow) == (1, 150 if saved else 100, None)
        assert list(learner.follow_alias()) == []
        found = live(learner, part(inverted, 100, 250), "b")
    assert promoted(found) == []
    assert home.registry.resolve("production") == 1


def test_a_hand_is_followed_while_promotions_are_made_good(home: Home, inverted: Images) -> None:
    """One that the learner has made since it was last saved, and one by hand after it was started again."""
    other = republish(home.registry)
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 3
    with open_learner(home, begin=learned(home)) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == other
    assert home.registry.numbers() == [1, 2, 3]


def test_what_serves_is_the_champion_where_a_promotion_is_not_made_again(home: Home, inverted: Images) -> None:
    """As when settings have changed meanwhile, or the images come in another order."""
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
    with open_learner(home, begin=learned(home), gate_alpha=1e-9) as learner:
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == home.registry.resolve("production")
