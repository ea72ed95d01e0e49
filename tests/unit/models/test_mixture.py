"""The mixture of networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lineages import ARGUMENTS, CLASSES, says, seeded

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models.architectures.mixture import MIN_PROBABILITY, Mixture
from cifarctl.online.colour import Colour


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
    assert float(says(mixture, some)[:, :5].max()) <= MIN_PROBABILITY * 1.01


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


def test_the_mixture_weighs_opinions(mixture: Mixture, some: torch.Tensor) -> None:
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
