"""Concept-drift detection on the prequential error, by river's detectors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from river import drift
from river.base import DriftDetector

RECENT = 50  # images whose error is told as "after"

Name = Literal["adwin", "page-hinkley", "kswin"]


@dataclass(frozen=True)
class Detection:
    """A rise of the error: found after `at` labelled images, begun about `since` images before that."""

    at: int
    since: int
    error_before: float
    error_after: float


class ErrorMonitor:
    """Feeds 0 (right) or 1 (wrong) to a river detector and reports the rises only.

    ADWIN: Bifet and Gavaldà 2007, Learning from Time-Changing Data with Adaptive Windowing. Page-Hinkley: Page 1954.
    KSWIN: Raab et al. 2020. ADWIN tells by its window how long ago the change was; for the others that is not known and
    the last 50 images are given.
    """

    def __init__(self, name: Name, seed: int = 0) -> None:
        self.name = name
        self._seed = seed
        self._detector = _make(name, seed)
        self._count = 0
        self._errors: deque[int] = deque(maxlen=RECENT)
        self._sum = 0.0
        self._since_reset = 0

    def update(self, wrong: bool) -> Detection | None:
        """Take the outcome of one labelled image; a Detection where the error has risen."""
        self._count += 1
        self._since_reset += 1
        self._errors.append(int(wrong))
        self._sum += wrong
        before = self._sum / self._since_reset
        self._detector.update(float(wrong))
        if not self._detector.drift_detected:
            return None
        since = int(self._detector.width) if isinstance(self._detector, drift.ADWIN) else len(self._errors)
        after = sum(self._errors) / len(self._errors)
        self.reset()
        if after <= before:  # the error fell: good news is no drift
            return None
        return Detection(self._count, max(since, 1), before, after)

    def reset(self) -> None:
        """Begin anew, as after the predictor was exchanged: its error has another mean."""
        self._detector = _make(self.name, self._seed)
        self._sum, self._since_reset = 0.0, 0


def _make(name: Name, seed: int) -> DriftDetector:
    if name == "adwin":
        return drift.ADWIN(delta=0.002, clock=8)  # type: ignore[no-untyped-call]
    if name == "page-hinkley":
        return drift.PageHinkley(min_instances=30, delta=0.05, threshold=15.0, mode="up")
    return drift.KSWIN(alpha=0.0005, window_size=200, stat_size=50, seed=seed)
