"""Experience replay: train on recent and old images together, to learn the new without forgetting the old.

A batch is one half recent images, one quarter from the stream's reservoir, and one quarter from the reference sample of
the training images. Source: Rolnick et al. 2019, Experience Replay for Continual Learning (NeurIPS).
"""

import torch
from torch import nn

from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.strategies import Continual, Start, Strategy


def begin(start: Start) -> Strategy:
    """A lineage that is trained on recent, reservoir and reference images."""
    return Continual(start, _learn)


def _learn(model: nn.Module, lesson: Lesson) -> nn.Module:
    quarter = max(1, lesson.batch_size // 4)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        old = join(
            sample(lesson.reservoir, quarter, lesson.generator),
            sample(lesson.reference, quarter, lesson.generator),
        )
        batch = join(old, sample(lesson.recent, max(1, lesson.batch_size - len(old)), lesson.generator))
        return lesson.present(batch), batch.labels

    return fit(model, lesson, draw)
