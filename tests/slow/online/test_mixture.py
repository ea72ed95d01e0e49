"""The strategy `mixture` over several concepts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lineages import (
    APART,
    CLASSES,
    CLEAN,
    MEAN,
    STD,
    assert_same,
    begin,
    blank,
    labelled,
    says,
    stored,
)
from mixtures import concept, kept, pool

from cifarctl.data import Images, synthetic
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.preprocess import normalise
from cifarctl.online.concept import ARRIVED
from cifarctl.online.strategies import mixture as strategy_module
from cifarctl.online.strategies.mixture import MAX_ARCHIVED

# --- the strategy `mixture`


def test_a_drift_puts_nothing_away_where_the_first_model_did_best() -> None:
    lineage = begin("mixture", blank(label=3))
    lineage.learn(labelled(3), steps=0)
    lineage.strategy.observe(labelled(3))
    for _ in range(2):
        lineage.learn(labelled(3), drifted=True, steps=0)
    assert kept(lineage) == []


def test_what_has_been_put_away_takes_over_again_where_its_concept_returns() -> None:
    lineage = begin("mixture", blank())
    concept(lineage, 3)
    concept(lineage, 5, drifted=True)
    concept(lineage, 5)
    images = normalise(CLEAN.pixels, MEAN, STD)
    before = lineage.learn(labelled(5), reference=labelled(5), steps=0)
    lineage.strategy.observe(labelled(3))
    after = lineage.strategy.propose(replace(lineage.lesson(labelled(5)), reference=labelled(5), steps=0))
    assert set(says(before.model, images).argmax(dim=1).tolist()) == {5}
    assert set(says(after.model, images).argmax(dim=1).tolist()) == {3}


def test_never_more_than_four_are_kept() -> None:
    lineage, most = begin("mixture", blank()), 0
    for number in range(16):
        snapshot = concept(lineage, number % CLASSES, drifted=number > 0)
        most = max(most, len(kept(lineage)))
        assert snapshot.arguments["members"] <= MAX_ARCHIVED + 3
    assert most == MAX_ARCHIVED == 4


def test_a_mixture_that_begins_with_a_mixture_goes_on_from_a_dump() -> None:
    first = pool(1, 2)
    original, successor = begin("mixture", first), begin("mixture", first)
    original.learn(labelled(1))
    successor.strategy.load(*stored(original.strategy.dump()))
    successor.generator.set_state(original.generator.get_state())
    expected, found = (lineage.learn(labelled(2), drifted=True) for lineage in (original, successor))
    assert found.arguments == expected.arguments
    assert_same(found.model.state_dict(), expected.model.state_dict())


# --- strategies by name


def test_colours_are_looked_for_until_a_whole_window_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a lineage that goes on from a checkpoint, too; after a drift they are looked for anew."""
    windows: list[int] = []
    monkeypatch.setattr(strategy_module, "match_moments", lambda window, _: windows.append(len(window)) or [])
    arrived = synthetic.draw(ARRIVED, seed=4).pixels
    lineage = begin("mixture")
    for count in (100, ARRIVED, ARRIVED):
        lineage.learn(CLEAN, arrived=arrived[:count], scarce=True)
    again = begin("mixture")
    again.strategy.load(*stored(lineage.strategy.dump()))
    again.learn(CLEAN, arrived=arrived, scarce=True)
    assert windows == [100, ARRIVED]
    again.learn(CLEAN, arrived=arrived, scarce=True, drifted=True)
    assert windows == [100, ARRIVED, ARRIVED]


def test_where_the_stream_looks_as_ever_the_first_version_answers_alone() -> None:
    """Without labels: neither have the inputs moved nor is it less sure of them; after a drift that is over, too."""
    first = blank(3)
    with torch.no_grad():
        convolution, *_, head, _ = first.parameters()
        convolution.fill_(0.1)
        head[3] = 1.0  # the brighter, the surer
        first.get_parameter("1.weight").fill_(1.0)
        first.get_parameter("4.bias").zero_()
    apart = Images(APART.pixels, torch.full_like(APART.labels, 3))
    lineage = begin("mixture", first)

    def answers_alone(pixels: torch.Tensor, *, moved: bool) -> bool:
        steps: list[int] = []
        lesson = {"arrived": pixels, "apart": apart, "moved": moved, "on_step": lambda: steps.append(1)}
        made = lineage.learn(labelled(3, 1), scarce=True, drifted=True, **lesson).model
        assert isinstance(made, Mixture)
        return not steps and len(made.members) == 1

    dark = CLEAN.pixels // 16
    assert not answers_alone(dark, moved=True)
    assert answers_alone(CLEAN.pixels, moved=False)
    tensors, _ = lineage.strategy.dump()
    for kind in ("statistics", "alike"):  # so that nothing goes on from the concept before
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensors[f"{kind}/{name}"], tensor)
    assert not answers_alone(dark, moved=False)
    assert not answers_alone(CLEAN.pixels, moved=True)
