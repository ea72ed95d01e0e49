"""Concept-drift detection on the prequential error with river's detectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from river import drift
from river.base import DriftDetector
from river.drift import binary

# Hand-chosen; each line says what the value trades off.
MEMORY = 1000  # outcomes searched for the beginning of a drift; a drift cannot be dated further back
MAX_OUTCOMES = 50_000  # outcomes after which a detector is reset; bounds the size of a checkpoint
MIN_SEGMENT = 10  # minimum outcomes on either side of a change point; fewer: error rates of a few outcomes

Name = Literal["adwin", "hddm-w", "page-hinkley", "kswin"]


@dataclass(frozen=True)
class Detection:
    """A rise of the error rate, detected after `at` labelled images, estimated to begin `since` images earlier."""

    at: int
    since: int
    error_before: float
    error_after: float


class ErrorMonitor:
    """Feeds outcomes, 0 (right) or 1 (wrong), to a river detector, and reports rises of the error rate only.

    Sources: Bifet and Gavaldà 2007, Learning from Time-Changing Data with Adaptive Windowing (ADWIN); Page 1954,
    Continuous Inspection Schemes (Page-Hinkley); Raab et al. 2020, Reactive Soft Prototype Computing for Concept Drift
    Streams (KSWIN); Frías-Blanco et al. 2015, Online and Non-Parametric Drift Detection Methods Based on Hoeffding's
    Bounds (HDDM_W).
    """

    def __init__(self, name: Name, seed: int = 0, *, tests: int = 1) -> None:
        """Divide the detector's significance level by `tests`, the number of monitors that run in parallel.

        This is the Bonferroni correction. Page-Hinkley has no significance level and ignores it.
        """
        self._make = partial(_make, name, seed, tests)
        self._count = 0
        self.reset()

    def update(self, wrong: bool) -> Detection | None:
        """Process the outcome of one labelled image; returns a Detection if the error rate has risen."""
        self._count += 1
        self._errors.append(wrong)
        self._all.append(wrong)
        if len(self._all) > MAX_OUTCOMES:
            self.reset()
        self._detector.update(float(wrong))
        if not self._detector.drift_detected:
            return None
        split = change_point(self._errors)
        errors = np.array(self._errors, dtype=np.float64)
        before, after = float(errors[:split].mean()), float(errors[split:].mean())
        self.reset()
        if after <= before:  # the error rate fell
            return None
        return Detection(self._count, len(errors) - split, before, after)

    def reset(self) -> None:
        """Discard all outcomes, as after a change of predictor, whose error rate differs."""
        self._detector = self._make()
        self._errors: deque[bool] = deque(maxlen=MEMORY)
        self._all = bytearray()

    def dump(self) -> torch.Tensor:
        """Bytes (8 + N,) uint8: the total number of outcomes ever (little-endian), then those since the last reset."""
        return torch.frombuffer(bytearray(self._count.to_bytes(8, "little")) + self._all, dtype=torch.uint8).clone()

    def load(self, dumped: torch.Tensor) -> None:
        """Restore a dump by replaying its outcomes, because river's detectors cannot save their state."""
        content = bytes(dumped.tolist())
        self.reset()
        for wrong in content[8:]:
            self.update(bool(wrong))
        self._count = int.from_bytes(content[:8], "little")


class ClassMonitor:
    """Monitors the error rate of each class: a drift of one class hardly changes the total error rate."""

    def __init__(self, name: Name, classes: int, seed: int = 0) -> None:
        self._monitors = [ErrorMonitor(name, seed, tests=classes) for _ in range(classes)]
        self._numbers: list[deque[int]] = [deque(maxlen=MEMORY) for _ in range(classes)]

    def update(self, label: int, number: int, wrong: bool) -> tuple[int, Detection] | None:
        """Process the outcome of image `number`; returns the number of a drift's first image, and the Detection."""
        self._numbers[label].append(number)
        detection = self._monitors[label].update(wrong)
        return None if detection is None else (self._numbers[label][-detection.since], detection)

    def reset(self) -> None:
        """Discard all outcomes, as after a drift."""
        for monitor, numbers in zip(self._monitors, self._numbers, strict=True):
            monitor.reset()
            numbers.clear()

    def dump(self) -> tuple[list[torch.Tensor], list[list[int]]]:
        """The monitors' dumps and the numbers of their newest images, one per class."""
        return [monitor.dump() for monitor in self._monitors], [list(numbers) for numbers in self._numbers]

    def load(self, dumped: Sequence[torch.Tensor], numbers: Sequence[Sequence[int]]) -> None:
        """Restore a dump."""
        self.reset()
        for monitor, own, outcomes, restored in zip(self._monitors, self._numbers, dumped, numbers, strict=True):
            monitor.load(outcomes)
            own.extend(restored)


def change_point(errors: Sequence[bool] | deque[bool]) -> int:
    """The maximum-likelihood index at which the error rate of a sequence of at least two outcomes changed.

    The model is two Bernoulli segments. Source: Hinkley and Hinkley 1970, Inference about the Change-Point in a
    Sequence of Binomial Variables, Biometrika 57.
    """
    total = np.cumsum(np.array(errors, dtype=np.float64))
    margin = min(MIN_SEGMENT, len(total) // 2)
    index = np.arange(margin, len(total) - margin + 1)
    index = index[(index > 0) & (index < len(total))]
    left = total[index - 1]
    likelihood = _log_likelihood(left, index) + _log_likelihood(total[-1] - left, len(total) - index)
    return int(index[np.argmax(likelihood)])


def _log_likelihood(wrong: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    share = np.clip(wrong / of, 1e-9, 1 - 1e-9)
    result: NDArray[np.float64] = wrong * np.log(share) + (of - wrong) * np.log(1 - share)
    return result


def _make(name: Name, seed: int, tests: int) -> DriftDetector:
    # ADWIN: river's default delta, checked every 8 outcomes (river's default: 32) for a shorter delay. The other levels
    # and Page-Hinkley's threshold are hand-chosen: lower ones mean fewer false alarms and a longer delay.
    if name == "adwin":
        return drift.ADWIN(delta=0.002 / tests, clock=8)  # type: ignore[no-untyped-call]
    if name == "hddm-w":
        hddm_w = vars(binary).get("HDDMW") or vars(binary)["HDDM_W"]  # its name before river 0.26
        detector: DriftDetector = hddm_w(drift_confidence=0.0005 / tests)
        return detector
    if name == "page-hinkley":
        return drift.PageHinkley(min_instances=30, delta=0.05, threshold=15.0, mode="up")
    return drift.KSWIN(alpha=0.0005 / tests, window_size=200, stat_size=50, seed=seed)
