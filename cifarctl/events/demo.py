"""The whole loop at once."""

from __future__ import annotations

from dataclasses import dataclass

from cifarctl.events.serve import ServeEvent
from cifarctl.events.train import TrainEvent


@dataclass(frozen=True)
class DemoStage:
    """The demo enters a stage."""

    number: int
    stages: int
    title: str


@dataclass(frozen=True)
class DemoResult:
    """JSON of `demo`: accuracies before the drift, in its first 200 images, and over the last 1,000.

    `accuracy_left_alone` is what the first version gets on those last images.
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
