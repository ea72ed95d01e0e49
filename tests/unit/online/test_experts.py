"""Weights of experts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.online.experts import FixedShare

probabilities = st.floats(1e-6, 1)


@st.composite
def races(draw: st.DrawFn) -> list[list[float]]:
    """What each of a few experts gave to each of some outcomes."""
    experts = draw(st.integers(1, 4))
    return draw(st.lists(st.lists(probabilities, min_size=experts, max_size=experts), min_size=1, max_size=30))


def smallest_losses(given_: list[list[float]], switches: int) -> list[float]:
    """For 0, 1, ..., `switches`: the smallest loss of a sequence of experts that changes at most so often."""
    losses = -torch.tensor(given_, dtype=torch.float64).log()
    best = torch.full((switches + 1, losses.shape[1]), float("inf"), dtype=torch.float64)  # by changes, last expert
    best[:] = losses[0]
    for loss in losses[1:]:
        changed = best.roll(1, 0).min(dim=1, keepdim=True).values
        changed[0] = float("inf")
        best = torch.minimum(best, changed) + loss
    found: list[float] = best.min(dim=1).values.tolist()
    return found


@given(races(), st.floats(0.01, 1), st.floats(0.001, 0.5))
def test_the_mixture_loses_little_to_the_best_sequence_of_experts(
    race: list[list[float]], eta: float, alpha: float
) -> None:
    names = [f"expert {number}" for number in range(len(race[0]))]
    share = FixedShare(names, eta, alpha)
    loss = torch.zeros((), dtype=torch.float64)
    for given_ in race:
        mixed = sum(share.weights[name] * chance for name, chance in zip(names, given_, strict=True))
        loss -= torch.tensor(mixed, dtype=torch.float64).log()
        share.update(dict(zip(names, given_, strict=True)))
    for switches, smallest in enumerate(smallest_losses(race, 4)):
        assert float(loss) <= smallest + share.bound(len(race), switches) + 1e-6


@given(
    st.lists(st.one_of(st.just("add"), st.just("remove"), st.lists(st.floats(0, 1), min_size=9, max_size=9))),
    st.floats(0.01, 1),
    st.floats(0.001, 0.5),
)
def test_weights_stay_positive_and_sum_to_one(steps: list[str | list[float]], eta: float, alpha: float) -> None:
    share, added = FixedShare(["first", "second"], eta, alpha), 0
    for step in steps:
        names = list(share.weights)
        if step == "add" and len(names) < 9:
            added += 1
            share.add(f"added {added}")
            assert share.weights[f"added {added}"] == pytest.approx(alpha)
        elif step == "remove" and len(names) > 1:
            before = share.weights
            share.remove(names[added % len(names)])
            left = list(share.weights)
            ratio = before[left[0]] / before[left[-1]]
            assert share.weights[left[0]] / share.weights[left[-1]] == pytest.approx(ratio)
        elif not isinstance(step, str):
            share.update(dict(zip(names, step, strict=False)))
            assert min(share.weights.values()) >= alpha / len(names) * (1 - 1e-9)
        assert min(share.weights.values()) > 0
        assert sum(share.weights.values()) == pytest.approx(1)


def test_an_expert_that_was_long_of_no_use_takes_over_within_a_few_outcomes() -> None:
    share = FixedShare(["old", "new"], eta=0.5, alpha=0.01)
    for _ in range(1000):
        share.update({"old": 0.9, "new": 0.01})
    assert share.weights["old"] > 0.9
    for _ in range(10):
        share.update({"old": 0.01, "new": 0.9})
    assert share.weights["new"] > 0.9


def test_weights_come_in_the_order_that_is_asked_for() -> None:
    share = FixedShare(["one", "two", "three"], eta=1.0, alpha=0.1)
    share.update({"one": 0.1, "two": 0.2, "three": 0.7})
    vector = share.vector(["three", "one"])
    assert vector.dtype == torch.float32
    assert vector.tolist() == pytest.approx([share.weights["three"], share.weights["one"]])
