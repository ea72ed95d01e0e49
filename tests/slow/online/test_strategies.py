"""What all strategies have in common, where it takes its time."""

from __future__ import annotations

import pytest
import torch
from lineages import (
    ARGUMENTS,
    CLEAN,
    NAMES,
    NEGATIVE,
    assert_same,
    begin,
    network,
    state_of,
    stored,
)

from cifarctl.online.strategies import Snapshot


@pytest.mark.parametrize("architecture", ["tiny", "forgetful", "net"])
@pytest.mark.parametrize("name", NAMES)
def test_a_lineage_that_takes_over_a_dump_goes_on_to_the_last_bit(name: str, architecture: str) -> None:
    original, successor = (begin(name, Snapshot(architecture, ARGUMENTS, network(architecture))) for _ in range(2))
    clean, negative = (images.take(torch.arange(24)) for images in (CLEAN, NEGATIVE))
    original.learn(clean)
    original.learn(negative, drifted=True)
    original.strategy.observe(negative)
    successor.strategy.load(*stored(original.strategy.dump()))
    successor.generator.set_state(original.generator.get_state())
    for images, drifted in ((negative, False), (clean, True), (clean, False)):
        expected, found = (lineage.learn(images, drifted=drifted) for lineage in (original, successor))
        assert (found.architecture, found.arguments) == (expected.architecture, expected.arguments)
        assert_same(found.model.state_dict(), expected.model.state_dict())
    assert torch.equal(successor.generator.get_state(), original.generator.get_state())


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_first_model_nor_a_snapshot_is_changed_by_what_comes_after(name: str) -> None:
    first = network()
    flags = [parameter.requires_grad for parameter in first.parameters()]
    lineage, kept = begin(name, first), [(first, state_of(first))]
    for images, drifted in ((CLEAN, False), (NEGATIVE, True), (CLEAN, True), (NEGATIVE, False)):
        snapshot = lineage.learn(images, drifted=drifted)
        kept.append((snapshot.model, state_of(snapshot.model)))
    for model, state in kept:
        assert_same(model.state_dict(), state)
        assert not model.training
    assert [parameter.requires_grad for parameter in first.parameters()] == flags
