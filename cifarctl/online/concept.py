"""The current concept of the stream, and the detectors of its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cifarctl.online.drift import MEMORY, ClassMonitor, Detection, ErrorMonitor, Name
from cifarctl.online.inputs import Movement, features

# Hand-chosen; each line says what the value trades off.
RECENT_OUTCOMES = 500  # labelled images of the prequential accuracy; more: less noise, a slower response
MIN_GAP = 100  # minimum images between two drifts; signals closer together count as the same drift
ARRIVED = 250  # newest images, labelled or not, kept for unlabelled estimates; more: surer, but older images
MIN_LABELLED = 32  # labelled ones among these, or since the drift, below which labels count as scarce


@dataclass(frozen=True)
class DriftSignal:
    """A detector's signal that a new concept began with image number `began`.

    `errors` are the error rates before and after it; None if the detector does not monitor errors.
    """

    detector: str
    began: int
    errors: tuple[float, float] | None = None


class Concept:
    """The current concept, and the detectors that monitor the stream for its end.

    Images are numbered in the order of arrival. The detectors monitor the champion's prequential error, over all
    classes and per class; statistics of the images; and, if labels are scarce, the champion's confidence.
    """

    def __init__(self, detector: Name, classes: Sequence[str], seed: int) -> None:
        self._detector, self._classes = detector, classes
        self.began = 0  # number of its first image
        self.labelled = 0  # number of its labelled images
        self.outcomes: deque[bool] = deque(maxlen=RECENT_OUTCOMES)  # whether the champion was right, newest last
        self._numbers: deque[int] = deque(maxlen=MEMORY)  # of the newest labelled images
        self._movement = Movement()  # of the inputs
        self._confidence = Movement(columns=1)
        self._errors = ErrorMonitor(detector, seed)
        self._by_class = ClassMonitor(detector, len(classes), seed)

    def images(
        self, pixels: torch.Tensor, seen: int, confidence: Callable[[torch.Tensor], torch.Tensor]
    ) -> DriftSignal | None:
        """Monitor images (N, 3, 32, 32) uint8; `seen` counts all images up to and including these.

        `confidence` computes the champion's confidence (N, 1) on them; it is called only if labels are scarce.
        """
        detector, since = "inputs", self._movement.update(features(pixels))
        if since is None and sum(number >= seen - ARRIVED for number in self._numbers) < MIN_LABELLED:
            detector, since = "confidence", self._confidence.update(confidence(pixels))
        return None if since is None else DriftSignal(detector, seen - since)

    def outcome(self, label: int, number: int, right: bool) -> DriftSignal | None:
        """Monitor whether the champion was `right` about the image with this label and number."""
        self.labelled += 1
        self._numbers.append(number)
        self.outcomes.append(right)
        detection, of_class = self._errors.update(not right), self._by_class.update(label, number, not right)
        if detection is not None:
            return DriftSignal(self._detector, self._numbers[-detection.since], _errors(detection))
        if of_class is not None:
            began, detection = of_class
            return DriftSignal(f"{self._detector}, {self._classes[label]}", began, _errors(detection))
        return None

    def renew(self, signal: DriftSignal) -> bool:
        """Begin a new concept; returns False if `signal` is a repeated one of the current concept's beginning."""
        self._by_class.reset()  # the per-class detectors would signal the same drift again
        if abs(signal.began - self.began) <= MIN_GAP and self.began > 0:
            return False
        self.began, self.labelled = signal.began, self._since(signal.began)
        return True

    def error_rates(self, began: int) -> tuple[float | None, float | None]:
        """The error rates before image number `began`, and from it on; None without labelled images."""
        wrong = [not right for right in self.outcomes]
        split = max(0, len(wrong) - self._since(began))
        before, after = (sum(part) / len(part) if part else None for part in (wrong[:split], wrong[split:]))
        return before, after

    def another_champion(self) -> None:
        """The champion is another version: its confidence has another distribution."""
        self._confidence.reset()

    def another_lineage(self) -> None:
        """The champion is of another lineage: its confidence and its error rate differ."""
        self._confidence.reset()
        self._errors.reset()
        self._by_class.reset()

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-serialisable state."""
        by_class, class_numbers = self._by_class.dump()
        tensors = {f"errors/{label}": outcomes for label, outcomes in enumerate(by_class)}
        tensors |= {"errors": self._errors.dump(), "movement": self._movement.dump()}
        return tensors | {"confidence": self._confidence.dump()}, {
            "began": self.began,
            "labelled": self.labelled,
            "outcomes": list(self.outcomes),
            "numbers": list(self._numbers),
            "class_numbers": class_numbers,
        }

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Restore the part of a dump that is about the stream; valid for any champion."""
        self.began, self.labelled = state["began"], state["labelled"]
        self.outcomes.extend(state["outcomes"])
        self._numbers.extend(state["numbers"])
        self._movement.load(tensors["movement"])

    def load_champion(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Restore the part of a dump that is about the champion; valid for the same champion only."""
        self._errors.load(tensors["errors"])
        self._confidence.load(tensors["confidence"])
        by_class = [tensors[f"errors/{label}"] for label in range(len(self._classes))]
        self._by_class.load(by_class, state["class_numbers"])

    def _since(self, began: int) -> int:
        return sum(number >= began for number in self._numbers)


def _errors(detection: Detection) -> tuple[float, float]:
    return detection.error_before, detection.error_after
