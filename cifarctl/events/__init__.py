"""Events that the core loops yield: frozen dataclasses, read by dashboards, log lines and JSON.

The last event of a flow is its result; its fields are the command's JSON document. Times are in seconds. Accuracies
are fractions of 1, or ``None`` without labelled images. This package does not import torch, so that a front end
starts quickly.
"""

from cifarctl.events.demo import DemoEvent, DemoResult, DemoStage
from cifarctl.events.doctor import Check
from cifarctl.events.evaluate import (
    Compared,
    Comparison,
    ContestEvent,
    ContestProgress,
    ContestStarted,
    EvaluateResult,
    Phase,
    StrategyResult,
    StreamResult,
)
from cifarctl.events.learn import (
    ChampionChanged,
    DriftDetected,
    LearnerDown,
    LearnerStarted,
    LearnerStatus,
    LearnEvent,
    Outcome,
    RateChanged,
    RetrainResult,
    RetrainStarted,
    RolledBack,
    ServedRecord,
    Shadow,
)
from cifarctl.events.notice import Notice, Waiting
from cifarctl.events.produce import ProduceEvent, ProduceProgress, ProduceResult, ProduceStarted
from cifarctl.events.serve import (
    Assigned,
    BatchServed,
    CanaryMoved,
    LabelsMatched,
    OnlineServeResult,
    ServeEvent,
    ServeResult,
    ServeStarted,
    StreamStatus,
    Swapped,
    SwapRefused,
)
from cifarctl.events.train import EpochDone, Mistake, TrainEvent, TrainProgress, TrainReport, TrainResult, TrainStarted
from cifarctl.events.verify import VerifyEvent, VerifyProgress, VerifyResult

Event = TrainEvent | ProduceEvent | ServeEvent | VerifyEvent | ContestEvent | DemoEvent

__all__ = [
    "Assigned",
    "BatchServed",
    "CanaryMoved",
    "ChampionChanged",
    "Check",
    "Compared",
    "Comparison",
    "ContestEvent",
    "ContestProgress",
    "ContestStarted",
    "DemoEvent",
    "DemoResult",
    "DemoStage",
    "DriftDetected",
    "EpochDone",
    "EvaluateResult",
    "Event",
    "LabelsMatched",
    "LearnEvent",
    "LearnerDown",
    "LearnerStarted",
    "LearnerStatus",
    "Mistake",
    "Notice",
    "OnlineServeResult",
    "Outcome",
    "Phase",
    "ProduceEvent",
    "ProduceProgress",
    "ProduceResult",
    "ProduceStarted",
    "RateChanged",
    "RetrainResult",
    "RetrainStarted",
    "RolledBack",
    "ServeEvent",
    "ServeResult",
    "ServeStarted",
    "ServedRecord",
    "Shadow",
    "StrategyResult",
    "StreamResult",
    "StreamStatus",
    "SwapRefused",
    "Swapped",
    "TrainEvent",
    "TrainProgress",
    "TrainReport",
    "TrainResult",
    "TrainStarted",
    "VerifyEvent",
    "VerifyProgress",
    "VerifyResult",
    "Waiting",
]
