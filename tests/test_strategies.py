"""How the learner learns: weights of experts, changes of colour, lookalikes, class frequencies, and the strategies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifarctl import models
from cifarctl.data import Images, synthetic
from cifarctl.data.operations import OPERATIONS
from cifarctl.errors import SettingsError
from cifarctl.models import architectures
from cifarctl.models.architectures.mixture import LEAST, Mixture
from cifarctl.models.preprocess import normalise
from cifarctl.online import colour as colour_module
from cifarctl.online import prior, strategies
from cifarctl.online.appearance import Appearance, AppearanceTransfer, half_and_half
from cifarctl.online.colour import SMALLEST, STEPS, Colour, fit_colour
from cifarctl.online.concept import ARRIVED
from cifarctl.online.experts import FixedShare
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Snapshot, Start, Strategy
from cifarctl.online.strategies import mixture as strategy_module
from cifarctl.online.strategies.mixture import MAX_ARCHIVED, MIN_COLOUR_GAIN
from cifarctl.registry import checkpoint

MEAN, STD = (0.45, 0.44, 0.43), (0.25, 0.25, 0.25)
CLASSES = 10
ARGUMENTS = {"classes": CLASSES}
INVERTED = Colour(-torch.eye(3), torch.tensor([(1 - 2 * mean) / std for mean, std in zip(MEAN, STD, strict=True)]))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- weights of experts


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


# --- changes of colour


def turned(values: list[float], seed: int) -> torch.Tensor:
    """A matrix (3, 3) with these singular values."""
    left, right = (torch.linalg.qr(torch.randn(3, 3, generator=seeded(seed + part)))[0] for part in (0, 1000))
    matrix: torch.Tensor = left @ torch.diag(torch.tensor(values)) @ right
    return matrix


@given(st.lists(st.floats(SMALLEST * 1.01, 3), min_size=3, max_size=3), st.integers(0, 500))
def test_the_inverse_of_a_change_of_colours_restores_images(values: list[float], seed: int) -> None:
    colour = Colour(turned(values, seed), torch.randn(3, generator=seeded(seed)))
    images = torch.randn(2, 3, 4, 4, generator=seeded(seed))
    torch.testing.assert_close(colour.inverse()(colour(images)), images, atol=1e-4, rtol=1e-4)


def test_no_change_of_colours_changes_nothing() -> None:
    images = torch.randn(2, 3, 4, 4, generator=seeded(0))
    for colour in (Colour.none(), Colour.none().inverse()):
        torch.testing.assert_close(colour(images), images)


@given(st.lists(st.sampled_from([0.0, 1e-6, 0.1, 1.0]), min_size=3, max_size=3), st.integers(0, 500))
def test_a_colour_that_has_gone_is_not_blown_up(values: list[float], seed: int) -> None:
    back = Colour(turned(values, seed), torch.zeros(3)).inverse()
    assert float(torch.linalg.svdvals(back.matrix).max()) <= 1 / SMALLEST + 1e-3


def test_a_change_of_colours_is_a_matrix_and_a_shift() -> None:
    matrix, shift = torch.tensor([[0.0, 1, 0], [0, 0, 2], [-1, 0, 0]]), torch.tensor([0.0, 0.5, 1])
    images = torch.randn(2, 3, 4, 4, generator=seeded(0))
    red, green, blue = images.unbind(dim=1)
    torch.testing.assert_close(Colour(matrix, shift)(images), torch.stack([green, 2 * blue + 0.5, 1 - red], dim=1))


# Classes that are colours.
PALETTE = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.5], [0.3, -0.5, 2.0], [-1.5, -1.0, -0.5]])


class Palette(nn.Module):
    """Tells the classes of `PALETTE` by an image's mean colour; parts of it are not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = nn.Linear(3, 4)
        with torch.no_grad():
            self.distance.weight.copy_(2 * PALETTE)
            self.distance.bias.copy_(-PALETTE.square().sum(dim=1))
        self.distance.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.distance(images.mean(dim=(2, 3)))
        return logits


def painted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 8, 8) in the colours of their classes, nearly, and the classes."""
    generator = seeded(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = PALETTE[labels][:, :, None, None] + 0.3 * torch.randn(count, 3, 1, 1, generator=generator)
    return images + 0.5 * torch.randn(count, 3, 8, 8, generator=generator), labels


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swapped": lambda images: images[:, [2, 0, 1]],
    "inverted": lambda images: -images,
    "dark": lambda images: 0.4 * images - 1,
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_colours_is_found(change: str, seed: int) -> None:
    network, (images, labels), (reference, _) = Palette(), painted(200, seed), painted(300, 100)
    others, truth = painted(200, 50 + seed)
    changed = CHANGES[change]
    assert float((network(changed(others)).argmax(dim=1) == truth).float().mean()) < 0.4
    colour, helps = fit_colour(network, changed(images), labels, reference, None, seeded(seed))
    assert helps > 1
    assert float((network(colour(changed(others))).argmax(dim=1) == truth).float().mean()) > 0.95


def test_a_change_of_colours_is_found_in_bfloat16_too() -> None:
    network, (images, labels), (reference, _) = Palette(), painted(200, 0), painted(300, 100)
    inverted = CHANGES["inverted"](images)
    types = set()
    network.register_forward_hook(lambda _module, _inputs, logits: types.add(logits.dtype))
    colour, helps = fit_colour(network, inverted, labels, reference, None, seeded(0), precision="bfloat16")
    assert types == {torch.bfloat16}
    assert helps > 1
    assert float((network(colour(inverted)).argmax(dim=1) == labels).float().mean()) > 0.95


def test_colours_that_stay_are_not_found_to_have_changed() -> None:
    network, (images, labels), (reference, _) = Palette(), painted(200, 0), painted(300, 100)
    colour, helps = fit_colour(network, images, labels, reference, None, seeded(0))
    assert 0 <= helps < MIN_COLOUR_GAIN
    assert float((network(colour(images)).argmax(dim=1) == labels).float().mean()) > 0.95


def test_what_is_known_of_the_colours_is_begun_with_where_it_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour_module, "STEPS", 0)
    network, (images, labels), (reference, _) = Palette(), painted(200, 0), painted(300, 100)
    back = Colour(torch.eye(3)[[1, 2, 0]], torch.zeros(3))
    swapped = CHANGES["swapped"](images)
    for known, best in ((back, back), (Colour(-torch.eye(3), torch.ones(3)), None)):
        colour, _ = fit_colour(network, swapped, labels, reference, known, seeded(0))
        assert torch.equal(colour.matrix, known.matrix) is (best is known)


def test_fitting_colours_leaves_the_network_alone() -> None:
    network, (images, labels), (reference, _) = Palette(), painted(50, 0), painted(300, 100)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    steps = []
    colour, _ = fit_colour(network, images, labels, reference, None, seeded(0), lambda: steps.append(1))
    assert len(steps) == STEPS
    assert not colour.matrix.requires_grad
    assert not colour.shift.requires_grad
    assert {name: tensor.tolist() for name, tensor in network.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in before.items()
    }
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_network_is_left_alone_even_where_fitting_is_interrupted() -> None:
    network, (images, labels) = Palette(), painted(50, 0)
    with pytest.raises(KeyboardInterrupt):
        fit_colour(network, images, labels, images, None, seeded(0), interrupt)
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]


def interrupt() -> None:
    raise KeyboardInterrupt


# --- lookalikes


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    """Normalised images of training."""
    return normalise(synthetic.draw(400, seed=0).pixels, MEAN, STD)


def stream(operation: str = "noise", strength: float = 0.0) -> torch.Tensor:
    """Other images of the same kind, normalised, after an operation."""
    pixels = synthetic.draw(250, seed=7).pixels
    generators = [seeded(number) for number in range(len(pixels))]
    return normalise(OPERATIONS[operation].apply(pixels, strength, generators), MEAN, STD)


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(0, 2, 3))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How differently pixels go together in the blocks of two kinds of images."""
    return float((Appearance.of(one).covariance - Appearance.of(other).covariance).norm())


@pytest.mark.parametrize(
    ("operation", "strength"),
    [("noise", 0.2), ("blur", 1.5), ("contrast", 0.4), ("brightness", 1.5), ("pixelate", 12), ("jpeg", 8)],
)
def test_reference_images_get_the_look_of_the_stream(reference: torch.Tensor, operation: str, strength: float) -> None:
    window = stream(operation, strength)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(window))(reference, seeded(0))
    torch.testing.assert_close(mean_colour(shown), mean_colour(window), atol=0.06, rtol=0)
    assert apart(shown, window) < 0.5 * apart(reference, window)  # values that would be out of range are cut
    assert bool((shown.amin(dim=(0, 2, 3)) >= window.amin(dim=(0, 2, 3))).all())
    assert bool((shown.amax(dim=(0, 2, 3)) <= window.amax(dim=(0, 2, 3))).all())


def test_an_unchanged_stream_leaves_reference_images_nearly_alone(reference: torch.Tensor) -> None:
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()))(reference, seeded(0))
    assert float((shown - reference).square().mean().sqrt()) < 0.3 * float(reference.std())


def test_colours_that_have_changed_are_changed_first(reference: torch.Tensor) -> None:
    window = normalise(255 - synthetic.draw(250, seed=7).pixels, MEAN, STD)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(window), INVERTED)(reference, seeded(0))
    assert float((shown - INVERTED(reference)).square().mean().sqrt()) < 0.3 * float(reference.std())


def test_lookalikes_are_those_of_the_generator(reference: torch.Tensor) -> None:
    look = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream("noise", 0.2)))
    before = reference.clone()
    first, again, other = (look(reference[:20], seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(reference, before)
    assert first.shape == (20, 3, 32, 32)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_where_the_stream_is_coarse_so_are_its_lookalikes(reference: torch.Tensor) -> None:
    def within(images: torch.Tensor) -> float:
        """Mean square of the steps between the two columns of each coarse pixel."""
        return float((images[..., 0::2] - images[..., 1::2]).square().mean())

    coarse = stream().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(coarse))(reference, seeded(0))
    assert within(shown) < 0.02 * within(reference)


def test_half_of_a_single_image_is_none(reference: torch.Tensor) -> None:
    look = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()))
    assert half_and_half(look, look)(reference[:1], seeded(0)).shape == (1, 3, 32, 32)
    assert half_and_half(look, look)(reference[:5], seeded(0)).shape == (5, 3, 32, 32)


def test_a_single_image_of_the_stream_suffices(reference: torch.Tensor) -> None:
    shown = AppearanceTransfer(Appearance.of(reference), Appearance.of(stream()[:1]))(reference, seeded(0))
    assert bool(shown.isfinite().all())


# --- class frequencies


def told(labels: torch.Tensor, sure: float) -> torch.Tensor:
    """Probabilities of a model that gives so much to the right class."""
    others = (1 - sure) / (CLASSES - 1)
    return torch.full((len(labels), CLASSES), others).scatter_(1, labels[:, None], sure)


def test_absent_classes_are_found() -> None:
    labels = torch.arange(500) % 5
    found = prior.estimate(told(labels, 0.8))
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[:5].min()) > 0.15
    assert float(found[5:].max()) < 0.03


def test_frequencies_are_found_by_a_model_that_errs() -> None:
    generator = seeded(0)
    labels = torch.where(
        torch.rand(2000, generator=generator) < 0.7, 3, torch.randint(10, (2000,), generator=generator)
    )
    seen = torch.multinomial(told(labels, 0.6), 1, generator=generator)[:, 0]  # the class that the image looks like
    found = prior.estimate(told(seen, 0.6))
    assert float(found[3]) == pytest.approx(0.73, abs=0.08)
    assert float((seen == 3).float().mean()) < 0.55  # its bare answers tell less


@pytest.mark.parametrize("sure", [0.1, 0.5, 0.99])
def test_equal_frequencies_stay_equal(sure: float) -> None:
    found = prior.estimate(told(torch.arange(300) % CLASSES, sure))
    torch.testing.assert_close(found, torch.full((CLASSES,), 0.1), atol=1e-3, rtol=0)


@given(st.integers(0, 50), st.integers(2, 12), st.floats(0.1, 30), st.integers(0, 99))
def test_frequencies_are_positive_and_sum_to_one(images: int, classes: int, sharpness: float, seed: int) -> None:
    logits = sharpness * torch.randn(images, classes, generator=seeded(seed))
    found = prior.estimate(logits.softmax(dim=1))
    assert found.shape == (classes,)
    assert float(found.min()) > 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)


# --- the mixture of networks


@pytest.fixture
def mixture() -> Mixture:
    """Two networks that say different things."""
    torch.manual_seed(0)
    built = models.build("mixture", {"member": "net", "arguments": ARGUMENTS, "members": 2, "classes": CLASSES})
    assert isinstance(built, Mixture)
    with torch.no_grad():
        for member in built.members:
            for parameter in member.parameters():
                parameter.mul_(2)
    return built.eval()


@pytest.fixture
def some() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=seeded(0))


def weigh(mixture: Mixture, kind: int, member: int) -> None:
    """Ask one member only, in one way."""
    mixture.weights.zero_()
    mixture.weights[kind, member] = 1


@torch.inference_mode()
def says(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Probabilities."""
    probabilities: torch.Tensor = network(images).softmax(dim=1)
    return probabilities


def test_a_mixture_begins_as_the_mean_of_its_members(mixture: Mixture, some: torch.Tensor) -> None:
    first, second = (says(member, some) for member in mixture.members)
    assert not torch.allclose(first, second, atol=1e-3)
    torch.testing.assert_close(says(mixture, some), (first + second) / 2)


@pytest.mark.parametrize("member", [0, 1])
def test_with_all_weight_a_member_speaks_alone(mixture: Mixture, some: torch.Tensor, member: int) -> None:
    weigh(mixture, 0, member)
    torch.testing.assert_close(says(mixture, some), says(mixture.members[member], some))


def test_logits_of_a_mixture_are_logarithms_of_probabilities(mixture: Mixture, some: torch.Tensor) -> None:
    logits = mixture(some)
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(4))
    assert logits.dtype == torch.float32


def test_other_class_frequencies_multiply_probabilities(mixture: Mixture, some: torch.Tensor) -> None:
    weigh(mixture, 1, 0)
    alone = says(mixture.members[0], some)
    torch.testing.assert_close(says(mixture, some), alone)
    mixture.prior.copy_(torch.tensor([0.0] * 5 + [1, 1, 1, 3, 4]))
    expected = alone * mixture.prior
    torch.testing.assert_close(says(mixture, some), expected / expected.sum(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)
    assert float(says(mixture, some)[:, :5].max()) <= LEAST * 1.01


def test_renamed_classes_take_each_others_probabilities(mixture: Mixture, some: torch.Tensor) -> None:
    weigh(mixture, 2, 1)
    alone = says(mixture.members[1], some)
    torch.testing.assert_close(says(mixture, some), alone)
    mixture.renaming.copy_(torch.eye(CLASSES).roll(1, dims=1))  # what was class 0 goes by the label 1
    torch.testing.assert_close(says(mixture, some), alone.roll(1, dims=1))


def test_members_see_images_in_colours_of_their_own(mixture: Mixture, some: torch.Tensor) -> None:
    mixture.matrix[1] = -torch.eye(3)
    mixture.shift[1] = torch.tensor([0.1, 0.2, 0.3])
    changed = Colour(mixture.matrix[1], mixture.shift[1])(some)
    weigh(mixture, 0, 1)
    torch.testing.assert_close(says(mixture, some), says(mixture.members[1], changed))
    weigh(mixture, 0, 0)
    torch.testing.assert_close(says(mixture, some), says(mixture.members[0], some))


def test_opinions_are_what_is_weighed(mixture: Mixture, some: torch.Tensor) -> None:
    mixture.weights.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.1], [0.2, 0.1]]))
    mixture.prior.copy_(torch.linspace(0.5, 1.5, CLASSES))
    with torch.inference_mode():
        opinions = mixture.opinions(some)
    assert opinions.shape == (3, 2, 4, CLASSES)
    torch.testing.assert_close(opinions.sum(dim=3), torch.ones(3, 2, 4))
    torch.testing.assert_close(says(mixture, some), (mixture.weights[:, :, None, None] * opinions).sum(dim=(0, 1)))


def test_a_mixture_is_made_again_from_its_arguments_and_state(mixture: Mixture, some: torch.Tensor) -> None:
    weigh(mixture, 1, 1)
    mixture.prior[3] = 7.0
    mixture.matrix[1] *= 2
    again = models.build("mixture", {"member": "net", "arguments": ARGUMENTS, "members": 2, "classes": CLASSES})
    again.load_state_dict(mixture.state_dict())
    assert torch.equal(says(again.eval(), some), says(mixture, some))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"member": "net", "arguments": {"colours": 3}, "members": 1},
        {"member": "none", "arguments": {}, "members": 1},
    ],
)
def test_a_mixture_of_what_there_is_not_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"train\.model = "):
        models.build("mixture", arguments)


# --- strategies: what all have in common


@dataclass
class Lineage:
    """A strategy at work, with the generator that the learner would share with it."""

    strategy: Strategy
    generator: torch.Generator

    def learn(self, recent: Images, *, drifted: bool = False, **changes: Any) -> Snapshot:
        """Let it observe images and propose a snapshot."""
        self.strategy.observe(recent)
        return self.strategy.propose(replace(self.lesson(recent, drifted=drifted), **changes))

    def lesson(self, recent: Images, *, drifted: bool = False) -> Lesson:
        return Lesson(
            recent=recent,
            new=recent,
            reservoir=OLD.take(torch.arange(40)),
            reference=OLD,
            arrived=recent.pixels,
            apart=APART,
            drifted=drifted,
            moved=True,
            scarce=False,
            mean=MEAN,
            std=STD,
            steps=3,
            batch_size=16,
            learning_rate=1e-2,
            precision="float32",
            generator=self.generator,
            on_step=lambda: None,
        )


OLD = synthetic.draw(200, seed=1)
CLEAN = synthetic.draw(60, seed=2)
APART = synthetic.draw(60, seed=3)
NEGATIVE = Images(255 - CLEAN.pixels, CLEAN.labels)
NAMES = strategies.names()


TINY = """
from torch import nn

def build(*, classes):
    features = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(512, classes))
"""
FORGETFUL = TINY.replace("nn.Flatten()", "nn.Dropout(), nn.Flatten()")


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An architecture with which all is quick; it has statistics beside its parameters."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny.py").write_text(TINY)
    (folder / "forgetful.py").write_text(FORGETFUL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "__path__", [*architectures.__path__, str(folder)])
        yield
    for name in ("tiny", "forgetful"):
        sys.modules.pop(f"{architectures.__name__}.{name}", None)


def network(architecture: str = "tiny") -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, ARGUMENTS).eval()


def blank(label: int | None = None) -> nn.Module:
    """A network that finds all classes equally likely, or one of them nearly certain."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        if label is not None:
            *_, bias = model.parameters()
            bias[label] = 8.0
    return model


def begin(name: str, first: Snapshot | nn.Module | None = None, *, follow_relabelling: bool = False) -> Lineage:
    """A lineage that begins with a snapshot, with a tiny network, or with one that knows nothing."""
    generator = seeded(0)
    if not isinstance(first, Snapshot):
        first = Snapshot("tiny", ARGUMENTS, first or network())
    start = Start(first, MEAN, STD, CLASSES, generator, follow_relabelling)
    return Lineage(strategies.strategy(name)(start), generator)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """See that all tensors are the same to the last bit."""
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def stored(dumped: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A dump as it comes back from a file: contiguous copies of the tensors, and what JSON makes of the state."""
    tensors, state = dumped
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, json.loads(
        json.dumps(state)
    )


def labelled(label: int, count: int = 60) -> Images:
    return Images(CLEAN.pixels[:count], torch.full((count,), label))


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


@pytest.mark.parametrize("architecture", ["tiny", "forgetful", "net"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
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


# --- the strategy `mixture`


def kept(lineage: Lineage) -> list[str]:
    """Members that were put away for concepts that have passed."""
    _, state = lineage.strategy.dump()
    return [name for name in state["members"] if name.startswith("kept")]


def member(lineage: Lineage, name: str) -> dict[str, torch.Tensor]:
    """Everything that makes a member what it is, its colours included."""
    tensors, _ = lineage.strategy.dump()
    return {
        key.removeprefix(f"{name}/"): tensor.clone() for key, tensor in tensors.items() if key.startswith(f"{name}/")
    }


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
        assert snapshot.arguments["members"] <= MAX_ARCHIVED + 3
    assert most == MAX_ARCHIVED == 4


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


def test_a_strategy_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    for refused in (strategies.require, strategies.strategy):
        with pytest.raises(
            SettingsError, match=r"online\.strategy = none: no such strategy; there are der\+\+, er-ace"
        ):
            refused("none")


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
    for member in ("statistics", "alike"):  # so that nothing goes on from the concept before
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensors[f"{member}/{name}"], tensor)
    assert not answers_alone(dark, moved=False)
    assert not answers_alone(CLEAN.pixels, moved=True)
