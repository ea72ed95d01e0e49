"""Plain fine-tuning on the recent window: the tutorial's idea, in batches. Fast to follow, quick to forget."""

from torch import nn

from cifarctl.online.fit import Lesson, fit, sample


def propose(champion: nn.Module, lesson: Lesson) -> nn.Module:
    """A copy of the champion, trained on recent images only."""
    return fit(champion, lesson, lambda: sample(lesson.recent, lesson.batch_size, lesson.generator))
