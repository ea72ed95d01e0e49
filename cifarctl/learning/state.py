"""The state that a learner's decisions depend on, apart from tensors: saved and restored whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, TypeVar

from cifarctl.models.predictor import Precision
from cifarctl.online.gate import Pairs

StateT = TypeVar("StateT")


@dataclass
class Progress:
    """How far the learner has come with its stream, independent of the version that it began from."""

    #: Labelled images seen when the last update began.
    updated_at: int = 0
    #: Images seen by then.
    updated_arrived: int = 0
    #: Images that lessons have already presented as new.
    taught: int = 0
    #: A drift has been noticed since the last update.
    drift_pending: bool = False
    #: The drift began another concept.
    drifted: bool = False
    #: Number of updates that still come sooner than usual.
    quick_updates: int = 0
    #: Trials so far; each has spent its part of the allowed error.
    trials: int = 0
    #: Arithmetic of updates; None until the first update measures it.
    precision: Precision | None = None
    #: The reader is far behind the stream: updates wait until it has caught up.
    behind: bool = False
    #: State of the stream's reader, opaque here.
    reading: dict[str, Any] = field(default_factory=dict)

    def take_over(self, other: Progress) -> None:
        """Copy every field of `other` into this object, which several collaborators share."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))


@dataclass
class Standing:
    """The lineage's standing, since it began from version `began`."""

    began: int
    #: Images seen when the update that produced the champion began.
    champion_at: int = 0
    #: The champion is a snapshot of this lineage, so later snapshots follow without a trial.
    following: bool = False
    #: Champion and challenger on the labelled images of the current trial.
    pairs: Pairs = field(default_factory=Pairs)


@dataclass
class WatchState:
    """The previous champion, which goes on predicting for a while after it was replaced."""

    previous: int
    #: Whether a window of the watch is open.
    on: bool = True
    #: The previous champion in the challenger's role.
    pairs: Pairs = field(default_factory=Pairs)


@dataclass
class LearnerState:
    """The whole state; tensors are stored beside it by the objects that own them."""

    #: Alias, strategy and rules: only a lineage of the same kind can be taken over.
    strategy: list[Any]
    champion: int
    #: Generation of the alias move that made the champion.
    generation: int
    #: Alias moves and rejections behind the learner.
    moves: int
    #: Images that have arrived.
    arrived: int
    rate: float
    #: The drift detectors' counts: see `Concept.dump`.
    concept: dict[str, Any]
    #: The strategy's own state: see `Strategy.dump`.
    lineage: dict[str, Any]
    #: Architecture and arguments of the snapshot on trial, None without one.
    snapshot: dict[str, Any] | None
    watch: WatchState | None
    progress: Progress
    standing: Standing

    def to_json(self) -> dict[str, Any]:
        """One flat document, as checkpoints of format 5 hold it."""
        document = _named(self)
        watch = document.pop("watch")
        document |= _named(document.pop("progress")) | _named(document.pop("standing"))
        document["pairs"] = astuple(document["pairs"])
        document["watch"] = watch and [watch.previous, watch.on, astuple(watch.pairs)]
        return document

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> LearnerState:
        """The inverse of `to_json`.

        Raises:
            KeyError: a field is missing.
        """
        found = dict(document)
        found["pairs"] = Pairs(*found["pairs"])
        if found["watch"] is not None:
            previous, on, pairs = found["watch"]
            found["watch"] = WatchState(previous, on, Pairs(*pairs))
        found["progress"], found["standing"] = _of(Progress, found), _of(Standing, found)
        return _of(cls, found)


def _named(state: Any) -> dict[str, Any]:
    return {each.name: getattr(state, each.name) for each in fields(state)}


def _of(kind: Callable[..., StateT], document: Mapping[str, Any]) -> StateT:
    return kind(**{each.name: document[each.name] for each in fields(kind)})  # type: ignore[arg-type]
