"""What a learner's decisions depend on, apart from tensors: saved and restored whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, TypeVar

from cifarctl.models.predictor import Precision
from cifarctl.online.gate import Pairs

StateT = TypeVar("StateT")


@dataclass
class Progress:
    """How far the learner has come with its stream, whichever version it has begun from."""

    #: Labelled images seen when the last update began.
    updated_at: int = 0
    #: Images seen by then.
    updated_arrived: int = 0
    #: Images that lessons have shown as new.
    taught: int = 0
    #: A drift has been noticed since the last update.
    drift_pending: bool = False
    #: That drift began another concept.
    drifted: bool = False
    #: Updates that still come sooner than usual.
    quick_updates: int = 0
    #: Trials that have begun, each of which has spent its part of the error allowed.
    trials: int = 0
    #: Arithmetic of updates; None until it is measured with the first one.
    precision: Precision | None = None
    #: Messages have come long ago that are yet to be read: updates wait for them.
    behind: bool = False
    #: How far the reader of the stream has come; its own, opaque here.
    reading: dict[str, Any] = field(default_factory=dict)


@dataclass
class Standing:
    """Where the lineage stands; it begins with version `began`, and anew wherever that changes."""

    began: int
    #: Images seen when the update began that the champion came of.
    champion_at: int = 0
    #: The champion is of the lineage, so that later snapshots follow without a trial.
    following: bool = False
    #: Champion and challenger on the labelled images of the present trial.
    pairs: Pairs = field(default_factory=Pairs)


@dataclass
class WatchState:
    """The record of the version before the champion, which goes on predicting for a while."""

    previous: int
    #: Whether a window of the watch is open.
    on: bool = True
    #: That version's as the challenger of the champion.
    pairs: Pairs = field(default_factory=Pairs)


@dataclass
class LearnerState:
    """All of it; tensors are stored beside, by those who hold them."""

    #: Alias, strategy and rules: only a lineage of the same kind can be taken over.
    strategy: list[Any]
    champion: int
    #: Generation of the alias move that made the champion.
    generation: int
    #: Moves and refusals of the alias that are behind the learner.
    moves: int
    #: Images that have arrived.
    arrived: int
    rate: float
    #: The detectors and what they have counted: see `Concept.dump`.
    concept: dict[str, Any]
    #: What the strategy keeps: see `Strategy.dump`.
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
        """From what `to_json` gave.

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
