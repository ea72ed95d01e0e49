"""Plain fine-tuning on the recent window, as in the tutorial but in batches. It adapts fast and forgets fast."""

import torch
from torch import nn

from cifarctl.online.fit import Lesson, fit, sample
from cifarctl.online.strategies import Continual, Start, Strategy


def begin(start: Start) -> Strategy:
    """A lineage that is trained on recent images only."""
    return Continual(start, _learn)


def _learn(model: nn.Module, lesson: Lesson) -> nn.Module:
    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        batch = sample(lesson.recent, lesson.batch_size, lesson.generator)
        return lesson.present(batch), batch.labels

    return fit(model, lesson, draw)
