"""A change of colours in front of a network that stays as it is: twelve parameters, which little suffices to learn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cifarctl.models.predictor import Precision, autocast
from cifarctl.models.preprocess import recolour

MIN_SINGULAR_VALUE = 0.2  # a colour that has all but gone is not blown up further than 1 / MIN_SINGULAR_VALUE times by the inverse
STEPS = 25
LEARNING_RATE = 0.05
BATCH_SIZE = 64
SCREENING_IMAGES = 96  # images on which starting points are tried


@dataclass(frozen=True)
class Colour:
    """``matrix @ pixel + shift`` for normalised pixels; matrix (3, 3), shift (3,), float32."""

    matrix: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def none(cls) -> Colour:
        """Leaves every colour as it is."""
        return cls(torch.eye(3), torch.zeros(3))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) with changed colours."""
        return recolour(images, self.matrix, self.shift)

    def inverse(self) -> Colour:
        """The way back, as far as there is one."""
        left, values, right = torch.linalg.svd(self.matrix)
        back = right.T @ torch.diag(1 / values.clamp(min=MIN_SINGULAR_VALUE)) @ left.T
        return Colour(back, -back @ self.shift)


def fit_colour(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    reference: torch.Tensor,
    known: Colour | None,
    generator: torch.Generator,
    on_step: Callable[[], None] = lambda: None,
    precision: Precision = "float32",
) -> tuple[Colour, float]:
    """The change of colours with which `network` does best on labelled images, and by how many nats a label it helps.

    Starts from the best of: none at all, what is `known`, and the changes that give the stream's colours the mean and
    covariance that the `reference` images (M, 3, H, W) have, which principal axes tell but for the sign of each: all
    eight. The network is left as it is, all images are normalised.
    """
    was = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        first, first_labels = images[-SCREENING_IMAGES:], labels[-SCREENING_IMAGES:]
        starts = [Colour.none(), *([] if known is None else [known]), *match_moments(images, reference)]
        losses = [_loss(network, start, first, first_labels, precision) for start in starts]
        best = starts[losses.index(min(losses))]
        matrix, shift = nn.Parameter(best.matrix.clone()), nn.Parameter(best.shift.clone())
        optimiser = torch.optim.Adam([matrix, shift], lr=LEARNING_RATE)
        for step in range(STEPS):
            on_step()
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
            index = torch.randint(len(labels), (min(BATCH_SIZE, len(labels)),), generator=generator)
            shown = Colour(matrix, shift)(images[index])
            with autocast(shown.device, precision):
                logits = network(shown)
            loss = functional.cross_entropy(logits.float(), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        fitted = Colour(matrix.detach(), shift.detach())
    finally:
        for parameter, trained in zip(network.parameters(), was, strict=True):
            parameter.requires_grad_(trained)
    return fitted, losses[0] - _loss(network, fitted, first, first_labels, precision)


def alike(images: torch.Tensor, reference: torch.Tensor) -> list[Colour]:
    """Changes of colour to the `reference`'s mean and covariance: its principal axes for theirs, either way round.

    Both (N, 3, H, W), normalised; eight changes, one for each choice of signs.
    """
    (mean, spread, axes), (wanted, onto, theirs) = _moments(images), _moments(reference)
    found = []
    for signs in itertools.product((1.0, -1.0), repeat=3):
        matrix = theirs @ torch.diag(torch.tensor(signs) * onto / spread) @ axes.T
        found.append(Colour(matrix, wanted - matrix @ mean))
    return found


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (3,) of the colours, their deviations (3,) along their principal axes, and these as columns (3, 3)."""
    pixels = images.permute(1, 0, 2, 3).reshape(3, -1)
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    return pixels.mean(dim=1), values.clamp(min=1e-4).sqrt(), vectors


@torch.no_grad()
def _loss(
    network: nn.Module, colour: Colour, images: torch.Tensor, labels: torch.Tensor, precision: Precision
) -> float:
    shown = colour(images)
    with autocast(shown.device, precision):
        logits = network(shown)
    return float(functional.cross_entropy(logits.float(), labels))
