"""When the lineage is updated: sooner after a drift, less often in calm, and not before enough has come."""

from __future__ import annotations

import time
from collections.abc import Callable

from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.state import Progress
from cifarctl.online.concept import MIN_LABELLED
from cifarctl.online.inputs import MIN_IMAGES
from cifarctl.settings import OnlineSettings

QUICK_UPDATES = 4  # number of updates after a drift that come twice as often, or without labels four times as often
CALM_AFTER = 500  # images of a concept (labelled, where labels are learned from): then updates are half as often


class UpdateSchedule:
    """Decides which update is due, from the images since the last one."""

    def __init__(
        self,
        settings: OnlineSettings,
        stream: ObservedStream,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds, for `online.update_interval`."""
        self._settings, self._stream, self._progress, self._clock = settings, stream, progress, clock
        self._updated_at_s = clock()

    @property
    def fresh(self) -> int:
        """Labelled images since the last update."""
        return self._stream.buffer.labelled - self._progress.updated_at

    @property
    def remaining(self) -> int:
        """Labelled images until the next regular update."""
        return max(0, self._every(self._stream.concept.labelled) - self.fresh)

    @property
    def drifting(self) -> bool:
        """Whether a drift is so recent that updates come sooner."""
        return self._progress.drift_pending or self._progress.quick_updates > 0

    def due(self) -> str | None:
        """The reason for an update now by the labels that have come, if there is one."""
        settings, fresh = self._settings, self.fresh
        if self._progress.behind or self._stream.buffer.labelled < min(settings.min_examples, settings.buffer_size):
            return None
        if self._progress.drift_pending and not self._stream.few_labels:
            return "drift"
        if fresh >= self._every(self._stream.concept.labelled):
            return f"{fresh} labelled images"
        waited_s = self._clock() - self._updated_at_s
        if fresh >= MIN_LABELLED and waited_s >= settings.update_interval:
            return f"{waited_s:.0f} s"
        return None

    def due_without_labels(self) -> str | None:
        """The reason for an update now although there are next to no labels, if there is one.

        Only for a strategy that learns from images without labels.
        """
        stream, progress = self._stream, self._progress
        fresh = stream.seen - max(progress.updated_arrived, stream.concept.began)
        every = self._every(stream.seen - stream.concept.began)
        if (
            progress.behind
            or min(self.fresh, stream.concept.labelled) >= MIN_LABELLED
            or fresh < (max(MIN_IMAGES, every // 2) if progress.quick_updates else every)
            or not (progress.quick_updates or stream.moved(stream.window()))
        ):
            return None
        return f"{fresh} images"

    def updated(self) -> None:
        """Take note of an update that has been trained; one that is interrupted before stays due."""
        progress, stream = self._progress, self._stream
        progress.updated_at, progress.updated_arrived = stream.buffer.labelled, stream.seen
        progress.taught = stream.buffer.recent.added
        progress.drift_pending = progress.drifted = False
        progress.quick_updates = max(0, progress.quick_updates - 1)
        self._updated_at_s = self._clock()

    def drifted(self, *, another: bool) -> None:
        """Let updates come sooner after a drift; `another`: it began another concept."""
        self._progress.drifted = self._progress.drifted or another
        self._progress.drift_pending = True
        self._progress.quick_updates = QUICK_UPDATES

    def _every(self, present: int) -> int:
        """Images between two updates when so many are `present` of the concept."""
        every = self._settings.update_every
        if self._progress.quick_updates:
            return max(1, every // 2)
        return every * 2 if present > CALM_AFTER else every
