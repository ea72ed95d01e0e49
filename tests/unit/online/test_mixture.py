"""The strategy `mixture`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lineages import (
    CLEAN,
    MEAN,
    NAMES,
    NEGATIVE,
    OLD,
    STD,
    Lineage,
    assert_same,
    begin,
    blank,
    labelled,
    member,
    network,
    says,
    state_of,
)
from mixtures import concept, kept, pool

from cifarctl import models
from cifarctl.data import Images
from cifarctl.models.preprocess import normalise
from cifarctl.online.strategies.mixture import MAX_ARCHIVED


def last_bias(lineage: Lineage, name: str) -> list[float]:
    """What a member finds likely where it does not look at images."""
    tensors, _ = lineage.strategy.dump()
    bias: list[float] = tensors[f"{name}/4.bias"].tolist()
    return bias


def test_what_did_best_is_put_away_when_a_drift_comes() -> None:
    lineage = begin("mixture", blank())
    concept(lineage, 3)
    assert kept(lineage) == []
    best = member(lineage, "alike")
    concept(lineage, 5, drifted=True)
    (name,) = kept(lineage)
    assert_same(member(lineage, name), best)
    assert last_bias(lineage, "alike") != best["4.bias"].tolist()


def test_what_was_put_away_is_still_there_after_a_step_back() -> None:
    lineage = begin("mixture", blank())
    concept(lineage, 3)
    concept(lineage, 5, drifted=True)
    before = kept(lineage)
    lineage.strategy.step_back()
    lineage.strategy.observe(labelled(3))
    assert lineage.strategy.revise() is None  # nothing more of what it has proposed
    images = normalise(CLEAN.pixels, MEAN, STD)
    after = lineage.strategy.propose(replace(lineage.lesson(labelled(5)), reference=labelled(5), steps=0))
    assert kept(lineage) == before
    assert set(says(after.model, images).argmax(dim=1).tolist()) == {3}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_a_single_model_steps_back_to_the_first(name: str) -> None:
    first = network()
    lineage = begin(name, first)
    lineage.learn(NEGATIVE)
    lineage.strategy.step_back()
    assert_same(lineage.learn(CLEAN, steps=0).model.state_dict(), state_of(first))


@pytest.mark.parametrize("name", NAMES)
def test_any_strategy_may_begin_with_a_mixture(name: str) -> None:
    first = begin("mixture").learn(CLEAN)
    before = state_of(first.model)
    second = begin(name, first).learn(NEGATIVE)
    assert second.architecture == "mixture"
    assert second.arguments["member"] == "tiny"
    again = models.build(second.architecture, second.arguments)
    again.load_state_dict(second.model.state_dict())
    images = normalise(CLEAN.pixels, MEAN, STD)
    torch.testing.assert_close(says(again.eval(), images), says(second.model, images))
    assert_same(first.model.state_dict(), before)


def test_a_mixture_that_begins_with_a_mixture_knows_what_that_knew() -> None:
    lineage = begin("mixture", pool(1, 2))
    images = normalise(CLEAN.pixels, MEAN, STD)
    for label in (1, 2):
        lineage.strategy.observe(labelled(label))
        snapshot = lineage.strategy.propose(replace(lineage.lesson(labelled(label)), steps=0))
        assert set(says(snapshot.model, images).argmax(dim=1).tolist()) == {label}


def test_what_a_mixture_has_inherited_is_not_lost_when_a_drift_comes() -> None:
    lineage = begin("mixture", pool(1, 2))
    inherited = [last_bias(lineage, name) for name in kept(lineage)]
    assert len(inherited) == 2
    concept(lineage, 7)
    best = last_bias(lineage, "alike")
    concept(lineage, 8, drifted=True)
    assert sorted(last_bias(lineage, name) for name in kept(lineage)) == sorted([*inherited, best])


@pytest.mark.parametrize("inherited", [4, 5, 6])
def test_a_mixture_that_begins_with_a_large_mixture_keeps_no_more_than_four(inherited: int) -> None:
    lineage = begin("mixture", pool(*range(inherited)))
    for number in range(3):
        concept(lineage, 9 - number, drifted=number > 0)
    assert len(kept(lineage)) == MAX_ARCHIVED


def test_class_frequencies_are_followed() -> None:
    lineage = begin("mixture", blank())
    lineage.strategy.observe(Images(OLD.pixels, torch.arange(len(OLD)) % 2))
    snapshot = lineage.learn(labelled(0, 2), steps=0)
    assert float(says(snapshot.model, normalise(CLEAN.pixels, MEAN, STD))[:, :2].sum(dim=1).min()) > 0.4  # of 0.2


@pytest.mark.parametrize(("follow", "answer"), [(True, 5), (False, 3)])
def test_labels_that_change_over_the_same_images_are_followed_only_where_that_is_wanted(
    follow: bool, answer: int
) -> None:
    lineage = begin("mixture", blank(label=3), follow_relabelling=follow)
    lineage.strategy.observe(Images(OLD.pixels, torch.full((len(OLD),), 5)))
    snapshot = lineage.learn(labelled(5), steps=0)
    assert set(says(snapshot.model, normalise(CLEAN.pixels, MEAN, STD)).argmax(dim=1).tolist()) == {answer}
