"""Running figures of a serving run, in bounded memory, for its result and its dashboard."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifarctl import events

RECENT_LABELLED = 200  # labelled images over which the recent accuracy is measured
PER_DECADE = 100  # buckets of the latency histogram: 2.3 % wide
LOWEST_MS = 0.01
BUCKETS = 11 * PER_DECADE
LONGEST_MS = 1e9  # the end of the last bucket: 11.6 days, more than Kafka keeps a message for by default (7 days)
SKEW_MS = 100.0  # how far two NTP-synchronised clocks may differ: a latency below -100 ms is invalid


def credible(milliseconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask (B,) of plausible latencies: not negative beyond clock skew, not too long, and not NaN."""
    found: NDArray[np.bool_] = (milliseconds >= -SKEW_MS) & (milliseconds < LONGEST_MS)
    return found


class Latencies:
    """A histogram with logarithmic buckets; percentiles are accurate to 2.3 %. Implausible latencies are left out."""

    def __init__(self) -> None:
        self._counts = np.zeros(BUCKETS, dtype=np.int64)
        self.left_out = 0

    def add(self, milliseconds: NDArray[np.float64]) -> None:
        """Count latencies (B,) in milliseconds, as far as they are credible."""
        counted = milliseconds[credible(milliseconds)]
        self.left_out += len(milliseconds) - len(counted)
        buckets = np.log10(np.maximum(counted, LOWEST_MS) / LOWEST_MS) * PER_DECADE
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
class Score:
    """How many images were predicted, how many of them are labelled, and how many of these were right."""

    predicted: int = 0
    labelled: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float | None:
        """Of the labelled images; None where there are none."""
        return self.correct / self.labelled if self.labelled else None

    def judge(self, right: NDArray[np.bool_]) -> None:
        """Count labelled images (M,): which of them were predicted right."""
        self.labelled += len(right)
        self.correct += int(right.sum())


@dataclass
class Trial:
    """A canary's record beside that of production over the same time, whatever versions each has been by turns."""

    number: int
    versions: set[int] = field(default_factory=set)  # versions that have been the canary
    canary: Score = field(default_factory=Score)
    production: Score = field(default_factory=Score)

    def of(self, version: int) -> Score:
        """The record that this version's answers count for."""
        return self.canary if version in self.versions else self.production


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
    labels_unmatched: int = 0
    began: float | None = None
    ended: float = 0.0
    versions: list[int] = field(default_factory=list)
    scores: dict[int, Score] = field(default_factory=lambda: defaultdict(Score))  # of each version
    trial: Trial | None = None  # the newest, also when it is over
    canary: int | None = None  # the version on trial now
    latencies: Latencies = field(default_factory=Latencies)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT_LABELLED))

    def update(self, event: events.ServeEvent) -> None:
        """Update the figures with an event."""
        if isinstance(event, events.BatchServed):
            self.predicted += len(event.ids)
            self.dead_lettered += len(event.dead_letters)
            known = event.labels >= 0
            right = (event.predicted == event.labels)[known]
            self._judge(right)
            for score in self._scores(event.version, event.trial):
                score.predicted += len(event.ids)
                score.judge(right)
            self.latencies.add(event.latency_ms)
            self.ended = time.monotonic()
            if self.began is None:
                self.began = self.ended - event.seconds
        elif isinstance(event, events.LabelsMatched):
            right = event.predicted == event.labels
            self._judge(right)
            for version, trial in {*zip(event.versions.tolist(), event.trials.tolist(), strict=True)}:
                for score in self._scores(version, trial):
                    score.judge(right[(event.versions == version) & (event.trials == trial)])
        elif isinstance(event, events.StreamStatus):
            self.labels_unmatched = event.labels_unmatched
        elif isinstance(event, events.ServeStarted):
            self.versions.append(event.version)
        elif isinstance(event, events.Swapped):
            self.swaps += 1
            if event.new not in self.versions:
                self.versions.append(event.new)
        elif isinstance(event, events.CanaryMoved):
            self.canary = event.new
            if self.trial is None or self.trial.number != event.trial:
                self.trial = Trial(event.trial)
            if event.new is not None:
                self.trial.versions.add(event.new)
        elif isinstance(event, events.LearnerStarted | events.LearnerStatus):
            self.buffer_size, self.buffer_capacity = event.size, event.capacity
        elif isinstance(event, events.RetrainStarted):
            self.retrains += 1
        elif isinstance(event, events.RetrainResult):
            self.promotions += event.outcome == "promoted"
        elif isinstance(event, events.RolledBack):
            self.rollbacks += 1

    def learner(self) -> dict[str, Any]:
        """The fields that `serve --online` adds to the result of `serve`."""
        return {
            "buffer": {"size": self.buffer_size, "capacity": self.buffer_capacity},
            "retrains": self.retrains,
            "promotions": self.promotions,
            "rollbacks": self.rollbacks,
        }

    @property
    def by_version(self) -> list[dict[str, Any]]:
        """The part of a result about each version that has answered."""
        return [
            {
                "version": version,
                "predicted": score.predicted,
                "labelled": score.labelled,
                "accuracy": score.accuracy,
            }
            for version, score in sorted(self.scores.items())
            if score.predicted
        ]

    def _scores(self, version: int, trial: int) -> Iterator[Score]:
        """The records that the answers of a version count for, given while which trial they were made."""
        yield self.scores[version]
        if self.trial is not None and trial == self.trial.number:
            yield self.trial.of(version)

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
