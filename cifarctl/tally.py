"""Running figures of a serving run, in bounded memory: what its result and its dashboard have in common."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifarctl import events

RECENT = 200  # labelled images of the recent accuracy
PER_DECADE = 100  # buckets of the latency histogram: 2.3 % wide
LOWEST_MS = 0.01
BUCKETS = 10 * PER_DECADE  # up to 10⁸ ms


class Latencies:
    """A histogram with logarithmic buckets; percentiles are right to 2.3 %."""

    def __init__(self) -> None:
        self._counts = np.zeros(BUCKETS, dtype=np.int64)

    def add(self, milliseconds: NDArray[np.float64]) -> None:
        """Count latencies (B,) in milliseconds."""
        buckets = np.log10(np.maximum(milliseconds, LOWEST_MS) / LOWEST_MS) * PER_DECADE
        self._counts += np.bincount(np.minimum(buckets.astype(np.int64), BUCKETS - 1), minlength=BUCKETS)

    def percentile(self, share: float) -> float | None:
        """The latency in milliseconds that `share` of all do not exceed; None before the first."""
        total = self._counts.sum()
        if total == 0:
            return None
        bucket = int(np.searchsorted(np.cumsum(self._counts), share * total))
        return round(LOWEST_MS * 10 ** ((bucket + 1) / PER_DECADE), 3)

    def summary(self) -> dict[str, float | None]:
        """The percentiles of a result."""
        return {
            "p50": self.percentile(0.5),
            "p95": self.percentile(0.95),
            "p99": self.percentile(0.99),
            "p999": self.percentile(0.999),
        }


@dataclass
class Tally:
    """Counts over the events of `serve`, its learner's included."""

    predicted: int = 0
    dead_lettered: int = 0
    labelled: int = 0
    correct: int = 0
    swaps: int = 0
    retrains: int = 0
    promotions: int = 0
    rollbacks: int = 0
    buffer_size: int = 0
    buffer_capacity: int = 0
    began: float | None = None
    ended: float = 0.0
    versions: list[int] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    def update(self, event: events.ServeEvent) -> None:
        """Take in what happened."""
        if isinstance(event, events.BatchServed):
            self.predicted += len(event.ids)
            self.dead_lettered += len(event.dead_letters)
            known = event.labels >= 0
            self._judge((event.predicted == event.labels)[known])
            self.latencies.add(event.latency_ms)
            self.ended = time.monotonic()
            if self.began is None:
                self.began = self.ended - event.seconds
        elif isinstance(event, events.LabelsMatched):
            self._judge(event.predicted == event.labels)
        elif isinstance(event, events.ServeStarted):
            self.versions.append(event.version)
        elif isinstance(event, events.Swapped):
            self.swaps += 1
            if event.new not in self.versions:
                self.versions.append(event.new)
        elif isinstance(event, events.LearnerStarted | events.LearnerStatus):
            self.buffer_size, self.buffer_capacity = event.size, event.capacity
        elif isinstance(event, events.RetrainStarted):
            self.retrains += 1
        elif isinstance(event, events.RetrainResult):
            self.promotions += event.outcome == "promoted"
        elif isinstance(event, events.RolledBack):
            self.rollbacks += 1

    def learner(self) -> dict[str, Any]:
        """What `serve --online` adds to the result of `serve`."""
        return {
            "buffer": {"size": self.buffer_size, "capacity": self.buffer_capacity},
            "retrains": self.retrains,
            "promotions": self.promotions,
            "rollbacks": self.rollbacks,
        }

    def _judge(self, right: NDArray[np.bool_]) -> None:
        """Count labelled images: which of them were predicted right."""
        self.labelled += len(right)
        self.correct += int(right.sum())
        self.recent.extend(right.tolist())

    @property
    def seconds(self) -> float:
        """From the first message read to the last one answered."""
        return 0.0 if self.began is None else self.ended - self.began

    @property
    def handled(self) -> int:
        """Inputs that have been answered, by a prediction or a dead letter."""
        return self.predicted + self.dead_lettered

    @property
    def accuracy(self) -> float | None:
        """Prequential accuracy of all labelled images; None where there were none."""
        return self.correct / self.labelled if self.labelled else None

    @property
    def recent_accuracy(self) -> float | None:
        """The same over the last 200 labelled images."""
        return sum(self.recent) / len(self.recent) if self.recent else None
