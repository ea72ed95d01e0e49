"""Experience replay: recent images beside old ones, so that the new is learned and the old not forgotten.

Rolnick et al. 2019, Experience Replay for Continual Learning; half of every batch recent, a quarter each from the
reservoir of the stream and from the reference sample of the training images.
"""

import torch
from torch import nn

from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.strategies import Continual, Start, Strategy


def begin(start: Start) -> Strategy:
    """A model that is trained on a mixture of recent, reservoir and reference images."""
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
