"""How far a training run has come: together with the tensors, all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cifarctl.events import EpochDone
from cifarctl.models.predictor import Precision


@dataclass
class Progress:
    """The numbers and choices of a run that outlive its process.

    Attributes:
        precision: arithmetic of the run, chosen at its start.
        compiled: whether steps are compiled; None before that is decided.
        step: steps taken in the whole run.
        seconds: time that the whole run has taken.
        epoch_seconds: time that the present epoch has taken.
        loss_sum: sum of the losses of the present epoch's batches.
        loss_count: number of these batches.
        epochs: the whole epochs so far.
    """

    precision: Precision
    compiled: bool | None = None
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    epochs: list[EpochDone] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """The mean loss of the present epoch so far."""
        return self.loss_sum / max(1, self.loss_count)

    def to_json(self) -> dict[str, Any]:
        """The JSON-able form that `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, state: Mapping[str, Any]) -> Progress:
        """The progress in the state of a checkpoint; other keys are ignored."""
        known = {each.name: state[each.name] for each in fields(cls)}
        return cls(**known | {"epochs": [EpochDone(**done) for done in state["epochs"]]})
