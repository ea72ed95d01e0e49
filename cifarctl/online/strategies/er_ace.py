"""ER-ACE: experience replay with an asymmetric cross-entropy.

The loss of the recent part of a batch masks the logits of classes that are absent from it, so that new images do not
push old classes away. The replayed part has the usual cross-entropy over all classes. Source: Caccia et al. 2022, New
Insights on Reducing Abrupt Representation Change in Online Continual Learning (ICLR).
"""

import torch
from torch import nn
from torch.nn import functional

from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.strategies import Continual, Start, Strategy


def begin(start: Start) -> Strategy:
    """A lineage that is trained on half recent, half old images."""
    return Continual(start, _learn)


def _learn(model: nn.Module, lesson: Lesson) -> nn.Module:
    half = max(1, lesson.batch_size // 2)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        stream = (lesson.batch_size - half) // 2 if len(lesson.reservoir) else 0
        batch = join(
            sample(lesson.recent, half, lesson.generator),
            sample(lesson.reservoir, stream, lesson.generator),
            sample(lesson.reference, lesson.batch_size - half - stream, lesson.generator),
        )
        return lesson.present(batch), batch.labels

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        recent = min(half, len(labels)) if len(lesson.recent) else 0
        absent = torch.ones(logits.shape[1], dtype=torch.bool)
        absent[labels[:recent]] = False
        narrow = logits[:recent].masked_fill(absent, float("-inf"))
        summed = functional.cross_entropy(narrow, labels[:recent], reduction="sum")
        summed = summed + functional.cross_entropy(logits[recent:], labels[recent:], reduction="sum")
        return summed / len(labels)

    return fit(model, lesson, draw, loss)
