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
    """Everything that an update may read; the images that the gate decides by are not among it.

    `recent` is what has arrived since the last drift (at most the window), oldest first; `new` what has arrived since
    the last lesson; `reservoir` the sample of the stream before; `reference` a sample of the images that the first
    model was trained on; `arrived` (N, 3, 32, 32) uint8 the newest images since the last drift, labelled or not.
    `apart` is for judging, never for training: images like the reference that no model has been trained on.
    `drifted`: it is the first lesson since a drift. `moved`: `arrived` is known to look otherwise than the images that
    validate. `scarce`: too few of the images since the drift have labels to judge by.
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
    on_step: Callable[[], None]  # called before every step; whatever it raises ends the update

    def present(self, images: Images) -> torch.Tensor:
        """Images as a network in training sees them: cropped and mirrored at random, normalised."""
        pixels = augment(images.pixels, self.generator, crop_padding=2, flip=True)
        return normalise(pixels, self.mean, self.std)


def sample(images: Images, count: int, generator: torch.Generator) -> Images:
    """`count` images drawn with replacement; none from none."""
    if not len(images):
        return images
    return images.take(torch.randint(len(images), (count,), generator=generator))


def join(*parts: Images) -> Images:
    """All the images of all parts."""
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def fit(
    model: nn.Module,
    lesson: Lesson,
    draw: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = functional.cross_entropy,
) -> nn.Module:
    """A copy of `model` after `lesson.steps` AdamW steps on batches from `draw`, the rate falling to zero.

    `draw` gives normalised images (B, 3, 32, 32) and labels (B,); `loss` takes logits (B, classes) float32 and these
    labels. What layers such as dropout draw follows the lesson's generator, too.
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
    """A seed that the state of `generator` determines, which stays as it is."""
    copied = torch.Generator()
    copied.set_state(generator.get_state())
    return int(torch.randint(2**62, (1,), generator=copied))
