"""Whole lives of the learner: what it promotes, refuses and takes back."""

from __future__ import annotations

import pytest
import torch
from helpers import Home, open_registry
from learners import (
    ONLINE,
    Life,
    accuracy,
    around_first,
    learned,
    live,
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
from cifarctl.learning.schedule import QUICK_UPDATES
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.online.strategies import Snapshot, Start, Strategy
from cifarctl.settings import OnlineSettings

# --- images


def with_classes_exchanged(images: Images) -> Images:
    """Class 0 goes by the name of 1 and the other way round, 2 by that of 3, and so on."""
    return Images(images.pixels, images.labels ^ 1)


# --- models, and lineages of them


def exchanging(home: Home) -> Snapshot:
    """As good where the labels of classes are exchanged as the first version is where they are not."""

    def exchange(mixture: Mixture) -> None:
        mixture.weights.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
        mixture.renaming.copy_(mixture.renaming[torch.arange(len(mixture.renaming)) ^ 1])

    return around_first(home, exchange)


# --- learning


def test_a_drift_is_noticed_learned_and_promoted(usual: Life, inverted: Images) -> None:
    assert OnlineSettings().strategy == ONLINE.strategy == "mixture"
    found, fresh = usual.events, part(inverted, 600, 1000)
    (drift, *_) = of(events.DriftDetected, found)
    assert 100 < drift.at <= 175
    assert drift.error_after > drift.error_before + 0.3
    assert abs(drift.at - drift.since - 100) <= 15
    update = found[found.index(drift) :]
    assert of(events.RateChanged, update)[0].new == ONLINE.learning_rate_max
    assert of(events.RetrainStarted, update)[0].trigger == "drift"
    (first, *later) = promoted(found)
    assert (first.champion["version"], first.challenger["version"]) == (1, 2)
    assert first.challenger["stream_accuracy"] > first.champion["stream_accuracy"]
    assert any("the inputs have moved away from the validation images" in reason for reason in first.reasons)
    assert later  # once it serves it goes on learning
    # And it was worth it, on images that nobody has seen.
    champion = usual.home.registry.resolve("production")
    assert champion == later[-1].challenger["version"]
    assert accuracy(usual.home, champion, fresh) > accuracy(usual.home, 1, fresh) + 0.2


def test_nothing_is_learned_from_labels_that_mean_nothing(home: Home, clean: Images) -> None:
    labels = torch.randint(10, (300,), generator=torch.Generator().manual_seed(0))
    with open_learner(home, strategy="replay") as learner:
        results = of(events.RetrainResult, live(learner, Images(clean.pixels[:300], labels), "noise"))
    assert {result.outcome for result in results} == {"rejected"}
    assert home.registry.resolve("production") == 1


# --- the gate


@pytest.mark.parametrize("canary", [False, True])
def test_what_could_not_be_loaded_is_not_promoted(home: Home, inverted: Images, canary: bool) -> None:
    """A pool of three is larger than the registry allows: the learner says so and goes on."""
    small = Home(open_registry(home.registry.dir, max_model_mb=1), home.dataset, home.split)
    with open_learner(small, canary=canary) as learner:
        results = of(events.RetrainResult, show(learner, part(inverted, 0, 250), "a"))
    refused = [reason for result in results for reason in result.reasons if "not promoted" in reason]
    assert refused
    assert all("registry.max_model_mb = 1" in reason for reason in refused)
    assert small.registry.numbers() == [1]


@pytest.mark.parametrize("followed", [False, True])
def test_labels_exchanged_over_unmoved_images_are_followed_only_on_demand(
    home: Home, clean: Images, followed: bool
) -> None:
    exchanged = with_classes_exchanged(clean)
    begin = series(exchanging(home))
    with open_learner(home, begin=begin, follow_relabelling=followed, update_every=500) as learner:
        show(learner, part(exchanged, 0, 100), "a")
        list(learner.update("by hand"))
        found = show(learner, part(exchanged, 100, 575), "b")
        (result, *_) = of(events.RetrainResult, [*found, *learner.update("by hand")])
    assert followed == (home.registry.resolve("production") > 1)
    if followed:
        assert any("online.follow_relabelling" in reason for reason in result.reasons)
    else:
        assert (result.outcome, home.registry.numbers()) == ("rejected", [1])
        assert result.challenger["stream_accuracy"] > result.champion["stream_accuracy"] + 0.3
        assert "below the floor" in result.reasons[0]  # what decided comes first
        assert "not below" not in result.reasons[0]


# --- when


def test_a_drift_makes_updates_come_more_often_for_a_while(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=same) as learner:
        show(learner, part(clean, 0, 225), "clean")
        until(events.DriftDetected, learner, inverted, "inverted")
        assert learner.status().drift == "drift"
        found = show(learner, part(inverted, 500, 850), "more")
        fresh = [started.examples for started in of(events.RetrainStarted, found)]
        quick = fresh.count(50)
        assert QUICK_UPDATES - 1 <= quick <= QUICK_UPDATES
        assert fresh[-1] == 100
        assert learner.status().drift == "calm"


# --- going back


def test_a_promotion_that_turns_out_bad_is_taken_back(home: Home, clean: Images, inverted: Images) -> None:
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start)

    with open_learner(home, begin=begin, update_every=50) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        assert learner.champion == 3  # it has followed once
        back = until(events.RolledBack, learner, part(clean, 0, 100), "clean")
        assert (back.new, learner.champion) == (1, 1)
        assert home.registry.resolve("production") == 1
        move = next(move for move in home.registry.history("production") if move.action == "rollback")
        assert (move.who, move.from_version, move.to_version) == ("learner", back.old, 1)
        assert move.why == back.reason
        assert "version 1 alone gets" in back.reason
        # The lineage goes on, but has to win another trial; nothing more is taken back.
        assert [start.snapshot.architecture for start in begun] == ["net"]
        assert list(learner.follow_alias()) == []
        later = live(learner, part(clean, 100, 250), "later")
        assert (of(events.RolledBack, later), promoted(later)) == ([], [])
        assert learner.champion == 1


def test_a_lineage_that_was_taken_back_can_win_again(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        until(events.RolledBack, learner, part(clean, 0, 200), "clean")
        found = live(learner, part(inverted, 150, 400), "again")
        assert promoted(found)[0].champion["version"] == 1
        assert accuracy(home, learner.champion, part(inverted, 600, 1000)) > 0.5


def test_without_a_watch_nothing_is_taken_back(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), watch=0) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        status = learner.status()
        assert of(events.RolledBack, show(learner, part(clean, 0, 200), "clean")) == []
        assert (learner.champion > 1, status.shadow) == (True, None)
