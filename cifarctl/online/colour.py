"""A colour transform in front of a frozen network: twelve parameters, which few labelled images suffice to fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cifarctl.models.predictor import Precision, autocast
from cifarctl.models.preprocess import recolour

# Hand-chosen, without a recorded ablation; each line says what the value trades off.
MIN_SINGULAR_VALUE = 0.2  # the inverse amplifies a colour at most five times; smaller: follows more, amplifies noise
STEPS = 25  # Adam steps of a fit; more: a closer fit, a longer update
LEARNING_RATE = 0.05  # of Adam, falling to zero; entries of the matrix are of the order of 1
BATCH_SIZE = 64  # images per step; more: less noise, a longer update
SCREENING_IMAGES = 96  # newest images on which the starting points are compared; more: surer, slower


@dataclass(frozen=True)
class Colour:
    """An affine transform ``matrix @ pixel + shift`` of normalised colours; matrix (3, 3), shift (3,), float32."""

    matrix: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def none(cls) -> Colour:
        """The identity."""
        return cls(torch.eye(3), torch.zeros(3))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The transformed images, (B, 3, H, W)."""
        return recolour(images, self.matrix, self.shift)

    def inverse(self) -> Colour:
        """The inverse transform, with singular values below `MIN_SINGULAR_VALUE` raised to it."""
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
    """Fit the colour transform that minimises `network`'s cross-entropy on labelled images.

    The fit starts from the best of: the identity, the `known` transform, and the eight transforms of `match_moments`.
    The network is not changed.

    Args:
        network: from normalised images to logits.
        images: (N, 3, H, W), normalised, newest last.
        labels: (N,) int64.
        reference: (M, 3, H, W), normalised images that the network was trained on.
        known: the transform of an earlier fit.
        generator: source of the batches.
        on_step: called before each step.
        precision: of the forward pass.

    Returns:
        The transform, and by how many nats per label it lowers the cross-entropy of the newest images.
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
            transformed = Colour(matrix, shift)(images[index])
            with autocast(transformed.device, precision):
                logits = network(transformed)
            loss = functional.cross_entropy(logits.float(), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        fitted = Colour(matrix.detach(), shift.detach())
    finally:
        for parameter, trained in zip(network.parameters(), was, strict=True):
            parameter.requires_grad_(trained)
    return fitted, losses[0] - _loss(network, fitted, first, first_labels, precision)


def match_moments(images: torch.Tensor, reference: torch.Tensor) -> list[Colour]:
    """The eight colour transforms that give `images` the mean and covariance of the `reference` images' colours.

    They map principal axes to principal axes. Moments do not determine the sign of an axis, hence eight of them. Both
    inputs are (N, 3, H, W), normalised.
    """
    (mean, deviation, axes), (target_mean, target_deviation, target_axes) = _moments(images), _moments(reference)
    found = []
    for signs in itertools.product((1.0, -1.0), repeat=3):
        matrix = target_axes @ torch.diag(torch.tensor(signs) * target_deviation / deviation) @ axes.T
        found.append(Colour(matrix, target_mean - matrix @ mean))
    return found


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean colour (3,), standard deviations (3,) along the principal axes, and these axes as columns (3, 3)."""
    pixels = images.permute(1, 0, 2, 3).reshape(3, -1)
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    return pixels.mean(dim=1), values.clamp(min=1e-4).sqrt(), vectors


@torch.no_grad()
def _loss(
    network: nn.Module, colour: Colour, images: torch.Tensor, labels: torch.Tensor, precision: Precision
) -> float:
    transformed = colour(images)
    with autocast(transformed.device, precision):
        logits = network(transformed)
    return float(functional.cross_entropy(logits.float(), labels))
