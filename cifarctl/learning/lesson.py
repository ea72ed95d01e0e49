"""The training material of one update."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cifarctl.data import Images
from cifarctl.learning.lineage import Lineage
from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.state import Progress
from cifarctl.online.fit import Lesson
from cifarctl.settings import OnlineSettings


class LessonPlan:
    """Builds each lesson from the images that have arrived since the last one."""

    def __init__(
        self,
        settings: OnlineSettings,
        stream: ObservedStream,
        lineage: Lineage,
        progress: Progress,
        *,
        reference: Images,
        apart: Images,
        generator: torch.Generator,
        on_step: Callable[[], None],
    ) -> None:
        """`reference` are training images; `apart` are others, which neither training nor the gate sees."""
        self._settings, self._stream, self._lineage, self._progress = settings, stream, lineage, progress
        self._reference, self._apart = reference, apart
        self._generator, self._on_step = generator, on_step

    def next(self, learning_rate: float, *, estimated: bool) -> Lesson:
        """The lesson that is due; `estimated`: there are too few labels, so it uses none."""
        settings, stream, (mean, std) = self._settings, self._stream, self._lineage.normalisation
        window, buffer = stream.window(), stream.buffer
        return Lesson(
            recent=stream.labelled(settings.buffer_size),
            new=buffer.recent.newest(buffer.recent.added - self._progress.taught),
            reservoir=buffer.reservoir.images(),
            reference=self._reference,
            arrived=window.pixels,
            apart=self._apart,
            drifted=self._progress.drifted,
            moved=stream.moved(window),
            scarce=estimated,
            mean=mean,
            std=std,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=learning_rate,
            precision=self._lineage.precision,
            generator=self._generator,
            on_step=self._on_step,
        )
