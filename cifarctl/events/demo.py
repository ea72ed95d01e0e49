"""Events of `demo`."""

from __future__ import annotations

from dataclasses import dataclass

from cifarctl.events.serve import ServeEvent
from cifarctl.events.train import TrainEvent


@dataclass(frozen=True)
class DemoStage:
    """A stage of the demo begins."""

    number: int
    stages: int
    title: str


@dataclass(frozen=True)
class DemoResult:
    """JSON of `demo`: accuracies before the drift, on its first 200 images, and on the last 1,000 images.

    `accuracy_left_alone` is the first version's accuracy on the same last 1,000 images.
    """

    data: str
    images: int
    drift: str
    accuracy_clean: float
    accuracy_after_drift: float
    accuracy_at_end: float
    accuracy_left_alone: float
    retrains: int
    promotions: int
    model_versions: list[int]
    latency_ms: dict[str, float | None]
    seconds: float
    registry: str


DemoEvent = TrainEvent | ServeEvent | DemoStage | DemoResult
