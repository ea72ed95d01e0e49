"""The replay buffer: bounded, deduplicated, balanced, held-out images kept apart, and the same after a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers import tagged, tags
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cifarctl.online import buffer as module
from cifarctl.online.buffer import ReplayBuffer, Reservoir, Ring

CLASSES = 10


def make(capacity: int = 20, holdout_size: int = 5, holdout_every: int = 4, seed: int = 0) -> ReplayBuffer:
    return ReplayBuffer(
        capacity,
        CLASSES,
        holdout_size=holdout_size,
        holdout_every=holdout_every,
        generator=torch.Generator().manual_seed(seed),
    )


def add(buffer: ReplayBuffer, number: int, label: int | None = None) -> bool:
    image = tagged([number], label)
    return buffer.add(str(number), image.pixels[0], int(image.labels[0]))


def contents(buffer: ReplayBuffer) -> dict[str, Any]:
    """All that can be seen of a buffer."""
    recent, kept, held = (
        buffer.recent.newest(10**6),
        buffer.reservoir.images(),
        buffer.holdout.newest(10**6),
    )
    return {
        "recent": list(zip(tags(recent), recent.labels.tolist(), strict=True)),
        "reservoir": list(zip(tags(kept), kept.labels.tolist(), strict=True)),
        "holdout": list(zip(tags(held), held.labels.tolist(), strict=True)),
        "labelled": buffer.labelled,
        "duplicates": buffer.duplicates,
    }


class Life(RuleBasedStateMachine):
    """Any sequence of images, repetitions and restarts."""

    @initialize(
        capacity=st.integers(2, 24), holdout_size=st.integers(1, 6), every=st.integers(2, 5), seed=st.integers(0, 9)
    )
    def start(self, capacity: int, holdout_size: int, every: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.every = every
        self.buffer = ReplayBuffer(
            capacity, CLASSES, holdout_size=holdout_size, holdout_every=every, generator=self.generator
        )
        self.added: list[int] = []
        self.refused = 0
        self.places = self.addresses()

    def addresses(self) -> list[int]:
        parts = (self.buffer.recent, self.buffer.reservoir, self.buffer.holdout)
        return [part.pixels.data_ptr() for part in parts] + [part.labels.data_ptr() for part in parts]

    @rule(numbers=st.lists(st.integers(0, 400), min_size=1, max_size=40))
    def see(self, numbers: list[int]) -> None:
        for number in numbers:
            new = number not in self.added
            assert add(self.buffer, number) is new
            if new:
                self.added.append(number)
            else:
                self.refused += 1

    @rule()
    def restart(self) -> None:
        before = contents(self.buffer)
        tensors, state = self.buffer.dump()
        capacity, holdout_size = self.buffer.capacity, self.buffer.holdout.capacity
        self.buffer = ReplayBuffer(
            capacity, CLASSES, holdout_size=holdout_size, holdout_every=self.every, generator=self.generator
        )
        places = self.places = self.addresses()
        self.buffer.load(tensors, json.loads(json.dumps(state)))
        assert self.addresses() == places
        assert contents(self.buffer) == before

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "buffer"):
            return
        buffer, found = self.buffer, contents(self.buffer)
        recent, reservoir, holdout = (
            [number for number, _ in found[part]] for part in ("recent", "reservoir", "holdout")
        )
        # Bounded.
        assert len(buffer) == len(recent) + len(reservoir) <= buffer.capacity
        assert len(holdout) <= buffer.holdout.capacity
        # No image twice, each with its own label.
        everywhere = recent + reservoir + holdout
        assert len(set(everywhere)) == len(everywhere)
        for part in ("recent", "reservoir", "holdout"):
            assert all(label == number % CLASSES for number, label in found[part])
        # Every k-th is held out and nowhere else; the windows are the newest, oldest first.
        outside = self.added[self.every - 1 :: self.every]
        inside = [number for i, number in enumerate(self.added) if (i + 1) % self.every]
        assert holdout == outside[-buffer.holdout.capacity :]
        assert recent == inside[-buffer.recent.capacity :]
        assert set(reservoir) <= set(inside) - set(recent)
        # The reservoir takes what leaves the window until it is full.
        assert len(reservoir) == min(buffer.reservoir.capacity, max(0, len(inside) - buffer.recent.capacity))
        assert sum(buffer.class_counts()) == len(buffer)
        assert (buffer.labelled, buffer.duplicates) == (len(self.added), self.refused)
        # Nothing was allocated anew.
        assert self.addresses() == self.places


Life.TestCase.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)
TestLife = Life.TestCase


@given(seed=st.integers(0, 100), before=st.integers(0, 150), after=st.integers(0, 150))
@settings(max_examples=25)
def test_after_dump_and_load_all_goes_on_as_it_would_have(seed: int, before: int, after: int) -> None:
    order = torch.randint(400, (before + after,), generator=torch.Generator().manual_seed(seed)).tolist()
    generator = torch.Generator().manual_seed(seed)
    buffer = ReplayBuffer(16, CLASSES, holdout_size=4, holdout_every=3, generator=generator)
    for number in order[:before]:
        add(buffer, number)
    tensors, state = buffer.dump()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    other_generator = torch.Generator()
    other_generator.set_state(generator.get_state())
    other = ReplayBuffer(16, CLASSES, holdout_size=4, holdout_every=3, generator=other_generator)
    other.load(tensors, json.loads(json.dumps(state)))
    for number in order[before:]:
        assert add(buffer, number) == add(other, number)
    (found, found_state), (expected, expected_state) = other.dump(), buffer.dump()
    assert found_state == expected_state
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_reservoir_is_balanced_though_the_stream_is_not() -> None:
    reservoir = Reservoir(100, CLASSES, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    frequencies = torch.tensor([0.72] + [0.04] * 7 + [0.0, 0.0])
    for label in torch.multinomial(frequencies, 3000, replacement=True, generator=generator).tolist():
        reservoir.add(torch.zeros(3, 32, 32, dtype=torch.uint8), label)
    counts = torch.bincount(reservoir.images().labels, minlength=CLASSES)
    assert len(reservoir) == 100
    assert counts[8:].tolist() == [0, 0]
    assert int(counts[:8].max()) - int(counts[:8].min()) <= 1


def test_a_class_that_comes_late_gets_its_share() -> None:
    reservoir = Reservoir(60, CLASSES, torch.Generator().manual_seed(0))
    blank = torch.zeros(3, 32, 32, dtype=torch.uint8)
    for number in range(600):
        reservoir.add(blank, number % 2)
    for _ in range(40):
        reservoir.add(blank, 2)
    assert torch.bincount(reservoir.images().labels).tolist() == [20, 20, 20]


def test_within_a_class_the_reservoir_samples_the_whole_stream() -> None:
    """Of one class, each image has the same chance to be held: reservoir sampling."""
    held = torch.zeros(10)
    for seed in range(20):
        reservoir = Reservoir(50, CLASSES, torch.Generator().manual_seed(seed))
        for number in range(500):
            reservoir.add(tagged([number]).pixels[0], 3)
        numbers = torch.tensor(tags(reservoir.images()))
        held += torch.bincount(numbers // 50, minlength=10)
    # 1,000 images over ten tenths of the stream: 100 each, give or take 9.5.
    assert held.sum() == 1000
    assert bool(((held - 100).abs() < 5 * 9.5).all()), held


def test_an_id_is_forgotten_after_the_horizon_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HORIZON", 50)
    buffer = make()
    for number in range(50):
        assert add(buffer, number)
    assert not add(buffer, 0)
    assert add(buffer, 50)  # pushes the oldest id out
    assert add(buffer, 0)
    assert not add(buffer, 2)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_not_a_class(label: int) -> None:
    buffer = make()
    with pytest.raises(ValueError, match=f"label {label} is not one of 10 classes"):
        buffer.add("a", torch.zeros(3, 32, 32, dtype=torch.uint8), label)
    assert buffer.labelled == 0
    assert add(buffer, 1)


def test_the_memory_is_all_taken_at_the_start_and_never_again() -> None:
    buffer = make(capacity=100, holdout_size=10)
    parts = (buffer.recent, buffer.reservoir, buffer.holdout)
    assert sum(len(part.pixels) for part in parts) == 110
    places = [(part.pixels.data_ptr(), part.labels.data_ptr()) for part in parts]
    for number in range(600):
        add(buffer, number)
    assert len(buffer) == 100
    assert [(part.pixels.data_ptr(), part.labels.data_ptr()) for part in parts] == places


def test_added_images_are_copied() -> None:
    buffer = make()
    image = tagged([7])
    buffer.add("a", image.pixels[0], 7)
    image.pixels.zero_()
    assert contents(buffer)["recent"] == [(7, 7)]


def test_an_empty_buffer_dumps_and_loads() -> None:
    tensors, state = make().dump()
    buffer = make()
    buffer.load(tensors, state)
    assert contents(buffer)["recent"] == []
    assert buffer.class_counts() == (0,) * CLASSES
    assert add(buffer, 1)


def test_class_counts() -> None:
    buffer = make(capacity=100, holdout_every=1000)
    for number in range(60):
        add(buffer, number, label=3 if number < 55 else 9)
    assert buffer.class_counts() == (0, 0, 0, 55, 0, 0, 0, 0, 0, 5)


@given(capacity=st.integers(1, 12), count=st.integers(0, 40), wanted=st.integers(0, 50))
def test_a_ring_holds_the_newest(capacity: int, count: int, wanted: int) -> None:
    ring = Ring(capacity)
    out = [ring.add(tagged([number]).pixels[0], number % 10) for number in range(count)]
    assert [found is not None for found in out] == [number >= capacity for number in range(count)]
    assert [found[1] for found in out if found] == [number % 10 for number in range(max(0, count - capacity))]
    newest = list(range(count))[-capacity:]
    assert tags(ring.newest(wanted)) == (newest[-wanted:] if wanted else [])
