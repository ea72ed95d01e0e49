"""Strategies of learning: what all have in common, and how they are found by name."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from lineages import (
    CLEAN,
    MEAN,
    NAMES,
    NEGATIVE,
    STD,
    assert_same,
    begin,
    blank,
    interrupt,
    labelled,
    network,
    says,
    stored,
)

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models.preprocess import normalise
from cifarctl.online import strategies
from cifarctl.registry import checkpoint

# --- strategies: what all have in common


@pytest.mark.parametrize("name", NAMES)
def test_snapshots_are_sound_and_can_be_built_anew(name: str) -> None:
    lineage = begin(name)
    snapshots = [lineage.learn(CLEAN), lineage.learn(NEGATIVE, drifted=True), lineage.learn(NEGATIVE)]
    images = normalise(CLEAN.pixels, MEAN, STD)
    for snapshot in snapshots:
        assert not any(module.training for module in snapshot.model.modules())
        assert all(bool(tensor.isfinite().all()) for tensor in snapshot.model.state_dict().values())
        answers = says(snapshot.model, images)
        assert bool(answers.isfinite().all())
        again = models.build(snapshot.architecture, json.loads(json.dumps(snapshot.arguments)))
        again.load_state_dict(snapshot.model.state_dict())
        torch.testing.assert_close(says(again.eval(), images), answers)


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_is_learned(name: str) -> None:
    lineage = begin(name, blank())
    for _ in range(3):
        snapshot = lineage.learn(labelled(3), reference=labelled(3), reservoir=labelled(3), learning_rate=0.1)
    assert float(says(snapshot.model, normalise(CLEAN.pixels, MEAN, STD))[:, 3].mean()) > 0.15


@pytest.mark.parametrize("name", NAMES)
def test_images_that_nobody_has_seen_arrive_are_learned_from_all_the_same(name: str) -> None:
    snapshot = begin(name).learn(CLEAN, arrived=CLEAN.pixels[:0], reservoir=CLEAN.take(torch.arange(0)))
    assert bool(says(snapshot.model, normalise(CLEAN.pixels, MEAN, STD)).isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_lineage_goes_on_after_a_lesson_that_was_interrupted(name: str) -> None:
    first = network()
    lineage = begin(name, first)
    with pytest.raises(KeyboardInterrupt):
        lineage.learn(CLEAN, on_step=interrupt)
    assert all(parameter.requires_grad for parameter in first.parameters())
    snapshot = lineage.strategy.propose(lineage.lesson(CLEAN))
    assert bool(says(snapshot.model, normalise(CLEAN.pixels, MEAN, STD)).isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_lineage_can_be_dumped_before_it_has_learned_anything(name: str) -> None:
    original, successor = begin(name), begin(name)
    successor.strategy.load(*stored(original.strategy.dump()))
    expected, found = (lineage.learn(CLEAN).model.state_dict() for lineage in (original, successor))
    assert_same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_and_a_snapshot_fit_into_one_checkpoint(name: str, tmp_path: Path) -> None:
    lineage = begin(name)
    snapshot = lineage.learn(CLEAN)
    tensors, state = lineage.strategy.dump()
    together = {f"lineage/{key}": tensor for key, tensor in tensors.items()}
    together |= {f"snapshot/{key}": tensor for key, tensor in snapshot.model.state_dict().items()}
    checkpoint.save(tmp_path / "checkpoint", together, state)
    found = checkpoint.load(tmp_path / "checkpoint")
    assert found is not None
    assert {key: tensor.tolist() for key, tensor in found[0].items()} == {
        key: tensor.tolist() for key, tensor in together.items()
    }
    assert found[1] == state


# --- strategies by name


def test_there_are_five_strategies() -> None:
    assert NAMES == ["der++", "er-ace", "finetune", "mixture", "replay"]


def offer(monkeypatch: pytest.MonkeyPatch, **offered: str) -> None:
    """Let another package offer strategies."""
    points = EntryPoints(EntryPoint(name, value, strategies.GROUP) for name, value in offered.items())
    monkeypatch.setattr(strategies, "entry_points", lambda **wanted: points.select(**wanted))


def test_a_strategy_of_another_package_joins_by_an_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "from cifarctl.online.strategies import Continual\n\n\n"
        "def begin(start):\n    return Continual(start, lambda model, lesson: model)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    offer(monkeypatch, stubborn="elsewhere:begin")
    assert strategies.names() == sorted([*NAMES, "stubborn"])
    strategies.require("stubborn")
    first = network()
    assert begin("stubborn", first).learn(CLEAN).model is first


@pytest.mark.parametrize("value", ["no_such_package:begin", "cifarctl.online.strategies.replay:no_such_function"])
def test_a_broken_strategy_of_another_package_is_an_error_of_settings(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    offer(monkeypatch, broken=value)
    with pytest.raises(SettingsError, match=f"online.strategy = broken: {value} cannot be loaded"):
        strategies.strategy("broken")


def test_other_packages_cannot_take_our_names(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, replay="no_such_package:begin")
    assert strategies.names() == NAMES
    assert strategies.strategy("replay").__module__ == "cifarctl.online.strategies.replay"


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    for refused in (strategies.require, strategies.strategy):
        with pytest.raises(
            SettingsError, match=r"online\.strategy = none: no such strategy; there are der\+\+, er-ace"
        ):
            refused("none")
