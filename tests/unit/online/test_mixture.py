"""The strategy `mixture`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lineages import (
    APART,
    ARGUMENTS,
    CLASSES,
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
    stored,
)

from cifarctl import models
from cifarctl.data import Images, synthetic
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.preprocess import normalise
from cifarctl.online.concept import ARRIVED
from cifarctl.online.strategies import Snapshot
from cifarctl.online.strategies import mixture as strategy_module
from cifarctl.online.strategies.mixture import KEPT

# --- the strategy `mixture`


def kept(lineage: Lineage) -> list[str]:
    """Members that were put away for concepts that have passed."""
    _, state = lineage.strategy.dump()
    return [name for name in state["members"] if name.startswith("kept")]


def last_bias(lineage: Lineage, name: str) -> list[float]:
    """What a member finds likely where it does not look at images."""
    tensors, _ = lineage.strategy.dump()
    bias: list[float] = tensors[f"{name}/4.bias"].tolist()
    return bias


def concept(lineage: Lineage, label: int, *, drifted: bool = False) -> Snapshot:
    """A concept in which everything is of one class: what it asks for is learned, and then proves itself."""
    told = {"reference": labelled(label), "reservoir": labelled(label), "learning_rate": 0.5}
    snapshot = lineage.learn(labelled(label, 20), drifted=drifted, **told)
    lineage.strategy.observe(labelled(label))
    return snapshot


def test_what_did_best_is_put_away_when_a_drift_comes() -> None:
    lineage = begin("mixture", blank())
    concept(lineage, 3)
    assert kept(lineage) == []
    best = member(lineage, "alike")
    concept(lineage, 5, drifted=True)
    (name,) = kept(lineage)
    assert_same(member(lineage, name), best)
    assert last_bias(lineage, "alike") != best["4.bias"].tolist()


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


def test_never_more_than_four_are_kept() -> None:
    lineage, most = begin("mixture", blank()), 0
    for number in range(16):
        snapshot = concept(lineage, number % CLASSES, drifted=number > 0)
        most = max(most, len(kept(lineage)))
        assert snapshot.arguments["members"] <= KEPT + 3
    assert most == KEPT == 4


def pool(*labels: int) -> Snapshot:
    """A mixture around a network that knows nothing, with members that find one class nearly certain."""
    members = [blank(), *(blank(label) for label in labels)]
    arguments = {"member": "tiny", "arguments": ARGUMENTS, "members": len(members), "classes": CLASSES}
    return Snapshot("mixture", arguments, Mixture(members, CLASSES).eval())


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


def test_a_mixture_that_begins_with_a_mixture_goes_on_from_a_dump() -> None:
    first = pool(1, 2)
    original, successor = begin("mixture", first), begin("mixture", first)
    original.learn(labelled(1))
    successor.strategy.load(*stored(original.strategy.dump()))
    successor.generator.set_state(original.generator.get_state())
    expected, found = (lineage.learn(labelled(2), drifted=True) for lineage in (original, successor))
    assert found.arguments == expected.arguments
    assert_same(found.model.state_dict(), expected.model.state_dict())


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
    assert len(kept(lineage)) == KEPT


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


# --- strategies by name


def test_colours_are_looked_for_until_a_whole_window_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a lineage that goes on from a checkpoint, too; after a drift they are looked for anew."""
    windows: list[int] = []
    monkeypatch.setattr(strategy_module, "alike", lambda window, _: windows.append(len(window)) or [])
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
