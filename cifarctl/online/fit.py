"""The input of an update, and the training loop that strategies share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cifarctl.data import Images, augment
from cifarctl.models.predictor import Precision, autocast
from cifarctl.models.preprocess import Channels, normalise


@dataclass(frozen=True)
class Lesson:
    """Everything that an update may use; it contains none of the images that the gate evaluates on.

    - `recent`: labelled images since the last drift (at most the recent window), oldest first
    - `new`: labelled images since the last lesson
    - `reservoir`: a sample of older labelled stream images
    - `reference`: a sample of the first model's training images
    - `arrived`: (N, 3, 32, 32) uint8, the newest images since the last drift, labelled or not
    - `apart`: labelled images of the reference's distribution that no model was trained on; for estimates, never for
      training
    - `drifted`: this is the first lesson since a drift
    - `moved`: the distribution of `arrived` is known to differ from the validation images'
    - `scarce`: there are too few labelled images since the drift for an evaluation
    """

    recent: Images
    new: Images
    reservoir: Images
    reference: Images
    arrived: torch.Tensor
    apart: Images
    drifted: bool
    moved: bool
    scarce: bool
    mean: Channels
    std: Channels
    steps: int
    batch_size: int
    learning_rate: float
    precision: Precision
    generator: torch.Generator
    on_step: Callable[[], None]  # called before every step; an exception from it ends the update

    def present(self, images: Images) -> torch.Tensor:
        """Augmented and normalised images, (N, 3, 32, 32) float32: random crops and horizontal flips."""
        pixels = augment(images.pixels, self.generator, crop_padding=2, flip=True)
        return normalise(pixels, self.mean, self.std)


def sample(images: Images, count: int, generator: torch.Generator) -> Images:
    """`count` images drawn with replacement; none if `images` is empty."""
    if not len(images):
        return images
    return images.take(torch.randint(len(images), (count,), generator=generator))


def join(*parts: Images) -> Images:
    """The images of all parts, concatenated."""
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def fit(
    model: nn.Module,
    lesson: Lesson,
    draw: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = functional.cross_entropy,
) -> nn.Module:
    """A copy of `model` after `lesson.steps` AdamW steps, with the learning rate falling linearly to zero.

    Args:
        model: it is not changed.
        lesson: steps, learning rate, precision and generator; the generator also seeds layers such as dropout.
        draw: returns a batch of normalised images (B, 3, 32, 32) and labels (B,).
        loss: a scalar of logits (B, classes) float32 and labels (B,).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(lesson.generator))
        return _fitted(model, lesson, draw, loss)


def _fitted(
    model: nn.Module,
    lesson: Lesson,
    draw: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> nn.Module:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lesson.learning_rate, weight_decay=1e-2)
    for step in range(lesson.steps):
        lesson.on_step()
        images, labels = draw()
        for group in optimiser.param_groups:
            group["lr"] = lesson.learning_rate * (1 - step / lesson.steps)
        with autocast(torch.device("cpu"), lesson.precision):
            logits = model(images)
        optimiser.zero_grad(set_to_none=True)
        loss(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


def _seed(generator: torch.Generator) -> int:
    """A seed derived from the state of `generator`, without advancing it."""
    copied = torch.Generator()
    copied.set_state(generator.get_state())
    return int(torch.randint(2**62, (1,), generator=copied))
