"""What the stream shows at present: since when, and what tells that it has become something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cifarctl.online.drift import MEMORY, ClassMonitor, Detection, ErrorMonitor, Name
from cifarctl.online.inputs import Movement, features

RECENT_OUTCOMES = 500  # labelled images over which the prequential accuracy is told
MIN_GAP = 100  # images between two drifts at least: less, and it is the same one, noticed twice
ARRIVED = 250  # newest images among which labels are looked for
MIN_LABELLED = 32  # of these, or of a concept, without which labels tell too little


@dataclass(frozen=True)
class DriftSignal:
    """A detector says that another concept has begun, with the image of that number.

    The error before and after it, None where it is not the errors that have told.
    """

    detector: str
    began: int
    errors: tuple[float, float] | None = None


class Concept:
    """The present concept, and the detectors that look for its end.

    Images are numbered as they arrive. The prequential error of the champion is watched, over all classes and of each;
    the images themselves; and, where labels are missing, the champion's confidence.
    """

    def __init__(self, detector: Name, classes: Sequence[str], seed: int) -> None:
        self._detector, self._classes = detector, classes
        self.began = 0  # number of its first image
        self.labelled = 0  # labelled images of it
        self.outcomes: deque[bool] = deque(maxlen=RECENT_OUTCOMES)  # whether the champion was right, the newest last
        self._numbers: deque[int] = deque(maxlen=MEMORY)  # of the newest labelled images of a concept that was present
        self._movement = Movement()  # of the inputs
        self._confidence = Movement(columns=1)
        self._errors = ErrorMonitor(detector, seed)
        self._by_class = ClassMonitor(detector, len(classes), seed)

    def images(
        self, pixels: torch.Tensor, seen: int, confidence: Callable[[torch.Tensor], torch.Tensor]
    ) -> DriftSignal | None:
        """Take in images (N, 3, 32, 32) uint8, after which so many have been `seen`.

        `confidence` tells the champion's of such images, (N, 1); it is asked where too few of the newest have labels.
        """
        detector, since = "inputs", self._movement.update(features(pixels))
        if since is None and sum(number >= seen - ARRIVED for number in self._numbers) < MIN_LABELLED:
            detector, since = "confidence", self._confidence.update(confidence(pixels))
        return None if since is None else DriftSignal(detector, seen - since)

    def outcome(self, label: int, number: int, right: bool) -> DriftSignal | None:
        """Take in whether the champion was right about an image of the present concept."""
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
        """Begin another concept; False where that is the present one, noticed once more."""
        self._by_class.reset()  # what has changed is known now
        if abs(signal.began - self.began) <= MIN_GAP and self.began > 0:
            return False
        self.began, self.labelled = signal.began, self._since(signal.began)
        return True

    def error_rates(self, began: int) -> tuple[float | None, float | None]:
        """The prequential error before and after the image of that number, None of no labelled images."""
        wrong = [not right for right in self.outcomes]
        split = max(0, len(wrong) - self._since(began))
        before, after = (sum(part) / len(part) if part else None for part in (wrong[:split], wrong[split:]))
        return before, after

    def another_champion(self) -> None:
        """Another version predicts, whose confidence is another."""
        self._confidence.reset()

    def another_lineage(self) -> None:
        """Another lineage predicts, whose errors have another mean as well."""
        self._confidence.reset()
        self._errors.reset()
        self._by_class.reset()

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-able state."""
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
        """Take over what a dump says of the stream, whoever has predicted it."""
        self.began, self.labelled = state["began"], state["labelled"]
        self.outcomes.extend(state["outcomes"])
        self._numbers.extend(state["numbers"])
        self._movement.load(tensors["movement"])

    def load_champion(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take over what a dump says of the champion, where that is the same."""
        self._errors.load(tensors["errors"])
        self._confidence.load(tensors["confidence"])
        by_class = [tensors[f"errors/{label}"] for label in range(len(self._classes))]
        self._by_class.load(by_class, state["class_numbers"])

    def _since(self, began: int) -> int:
        return sum(number >= began for number in self._numbers)


def _errors(detection: Detection) -> tuple[float, float]:
    return detection.error_before, detection.error_after
