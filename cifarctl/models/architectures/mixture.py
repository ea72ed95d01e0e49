"""A weighted ensemble of networks of one architecture, which the strategy `mixture` creates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cifarctl.models import statistics
from cifarctl.models.preprocess import recolour

MIN_PROBABILITY = 1e-6  # its logarithm is a logit, which must be finite


class Mixture(nn.Module):
    """The weighted mean of the `members`' probabilities, each member behind a colour transform of its own.

    Each member is evaluated once and contributes three distributions with separate `weights` (3, members), which sum to
    1: its probabilities; these adjusted to the class frequencies `prior` (classes,), relative to equal ones (Saerens et
    al. 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities); and these mapped from classes to
    labels by `renaming` (classes, classes), row = class. `matrix` (members, 3, 3) and `shift` (members, 3) are the
    colour transforms. `follows` (members,) bool marks members whose batch normalisation uses the stream's statistics.
    """

    weights: torch.Tensor
    follows: torch.Tensor
    matrix: torch.Tensor
    shift: torch.Tensor
    prior: torch.Tensor
    renaming: torch.Tensor

    def __init__(self, members: list[nn.Module], classes: int) -> None:
        super().__init__()
        count = len(members)
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor([[1.0], [0.0], [0.0]]).repeat(1, count) / count)
        self.register_buffer("follows", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("matrix", torch.eye(3).repeat(count, 1, 1))
        self.register_buffer("shift", torch.zeros(count, 3))
        self.register_buffer("prior", torch.ones(classes))
        self.register_buffer("renaming", torch.eye(classes))

    def adapted(self, images: torch.Tensor) -> Mixture:
        """A copy whose marked members use the statistics of normalised images (N, 3, 32, 32); see `follows`."""
        members: list[nn.Module] = []
        for index, member in enumerate(self.members):
            follower = None
            if self.follows[index]:
                follower = statistics.adapted(member, recolour(images, self.matrix[index], self.shift[index]))
            members.append(member if follower is None else follower)
        new = Mixture(members, len(self.prior))
        for name, buffer in self.named_buffers(recurse=False):
            setattr(new, name, buffer)
        return new.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) float32: the logarithms of the mixed probabilities."""
        kinds = self.opinions(images)
        mixed = (self.weights[:, :, None, None] * kinds).sum(dim=(0, 1))
        return mixed.clamp(min=MIN_PROBABILITY).log()

    def opinions(self, images: torch.Tensor) -> torch.Tensor:
        """The probabilities (3, members, B, classes) before weighting."""
        return kinds(self.plain(images), self.prior, self.renaming)

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """The members' own probabilities, (members, B, classes)."""
        return torch.stack(
            [
                member(recolour(images, self.matrix[index], self.shift[index])).float().softmax(dim=1)
                for index, member in enumerate(self.members)
            ]
        )


def kinds(plain: torch.Tensor, prior: torch.Tensor, renaming: torch.Tensor) -> torch.Tensor:
    """Probabilities (..., classes) unchanged, adjusted to `prior`, and mapped by `renaming`: (3, ..., classes)."""
    shifted = plain * prior
    return torch.stack([plain, shifted / shifted.sum(dim=-1, keepdim=True), plain @ renaming])


def build(*, member: str, arguments: dict[str, Any], members: int, classes: int = 10) -> Mixture:
    """A mixture of `members` freshly initialised networks of the architecture `member`."""
    from cifarctl.models import build as build_member

    return Mixture([build_member(member, arguments) for _ in range(members)], classes)
