"""What strategies learn from, and the training loop that they share."""

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
    """Everything that an update may read; the validation and held-out images are not among it.

    `recent` is what has arrived since the last drift (at most the window), oldest first; `reservoir` the sample
    of the stream before; `reference` a sample of the images that the first model was trained on.
    """

    recent: Images
    reservoir: Images
    reference: Images
    mean: Channels
    std: Channels
    steps: int
    batch_size: int
    learning_rate: float
    precision: Precision
    generator: torch.Generator
    on_step: Callable[[], None]  # called before every step; whatever it raises ends the update


def sample(images: Images, count: int, generator: torch.Generator) -> Images:
    """`count` images drawn with replacement; none from none."""
    if not len(images):
        return images
    return images.take(torch.randint(len(images), (count,), generator=generator))


def join(*parts: Images) -> Images:
    """All the images of all parts."""
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def fit(
    champion: nn.Module,
    lesson: Lesson,
    draw: Callable[[], Images],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = functional.cross_entropy,
) -> nn.Module:
    """A copy of `champion` after `lesson.steps` AdamW steps on batches from `draw`, the rate falling to zero.

    `loss` takes logits (B, classes) float32 and labels (B,).
    """
    model = copy.deepcopy(champion).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lesson.learning_rate, weight_decay=1e-2)
    for step in range(lesson.steps):
        lesson.on_step()
        batch = draw()
        pixels = augment(batch.pixels, lesson.generator, crop_padding=2, flip=True)
        for group in optimiser.param_groups:
            group["lr"] = lesson.learning_rate * (1 - step / lesson.steps)
        with autocast(torch.device("cpu"), lesson.precision):
            logits = model(normalise(pixels, lesson.mean, lesson.std))
        optimiser.zero_grad(set_to_none=True)
        loss(logits.float(), batch.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()
