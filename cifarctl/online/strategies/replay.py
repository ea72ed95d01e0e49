"""Experience replay: recent images beside old ones, so that the new is learned and the old not forgotten.

Rolnick et al. 2019, Experience Replay for Continual Learning; half of every batch recent, a quarter each from the
reservoir of the stream and from the reference sample of the training images.
"""

from torch import nn

from cifarctl.data import Images
from cifarctl.online.fit import Lesson, fit, join, sample


def propose(champion: nn.Module, lesson: Lesson) -> nn.Module:
    """A copy of the champion, trained on a mixture of recent, reservoir and reference images."""
    quarter = max(1, lesson.batch_size // 4)

    def draw() -> Images:
        old = join(
            sample(lesson.reservoir, quarter, lesson.generator),
            sample(lesson.reference, quarter, lesson.generator),
        )
        return join(old, sample(lesson.recent, max(1, lesson.batch_size - len(old)), lesson.generator))

    return fit(champion, lesson, draw)
