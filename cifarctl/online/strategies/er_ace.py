"""ER-ACE: replay in which new images compete only with the classes that came with them.

Caccia et al. 2022, New Insights on Reducing Abrupt Representation Change in Online Continual Learning: the loss of the
recent part of a batch leaves out the logits of all classes that are absent from it, so that old classes are not pushed
away by every new image; the replayed part has the usual loss over all classes.
"""

import torch
from torch import nn
from torch.nn import functional

from cifarctl.data import Images
from cifarctl.online.fit import Lesson, fit, join, sample


def propose(champion: nn.Module, lesson: Lesson) -> nn.Module:
    """A copy of the champion, trained on half recent, half old images."""
    half = max(1, lesson.batch_size // 2)

    def draw() -> Images:
        stream = (lesson.batch_size - half) // 2 if len(lesson.reservoir) else 0
        return join(
            sample(lesson.recent, half, lesson.generator),
            sample(lesson.reservoir, stream, lesson.generator),
            sample(lesson.reference, lesson.batch_size - half - stream, lesson.generator),
        )

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        recent = min(half, len(labels)) if len(lesson.recent) else 0
        absent = torch.ones(logits.shape[1], dtype=torch.bool)
        absent[labels[:recent]] = False
        narrow = logits[:recent].masked_fill(absent, float("-inf"))
        summed = functional.cross_entropy(narrow, labels[:recent], reduction="sum")
        summed = summed + functional.cross_entropy(logits[recent:], labels[recent:], reduction="sum")
        return summed / len(labels)

    return fit(champion, lesson, draw, loss)
