"""Changes of colour."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lineages import interrupt, seeded
from torch import nn

from cifarctl.online import colour as colour_module
from cifarctl.online.colour import MIN_SINGULAR_VALUE, STEPS, Colour, fit_colour
from cifarctl.online.strategies.mixture import MIN_COLOUR_GAIN


def turned(values: list[float], seed: int) -> torch.Tensor:
    """A matrix (3, 3) with these singular values."""
    left, right = (torch.linalg.qr(torch.randn(3, 3, generator=seeded(seed + part)))[0] for part in (0, 1000))
    matrix: torch.Tensor = left @ torch.diag(torch.tensor(values)) @ right
    return matrix


@given(st.lists(st.floats(MIN_SINGULAR_VALUE * 1.01, 3), min_size=3, max_size=3), st.integers(0, 500))
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
    assert float(torch.linalg.svdvals(back.matrix).max()) <= 1 / MIN_SINGULAR_VALUE + 1e-3


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


def test_the_known_colour_transform_is_the_start_if_it_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
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
