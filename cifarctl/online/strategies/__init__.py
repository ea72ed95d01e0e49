"""Online-learning strategies: one module each, with a function ``begin`` of the type `Begin`.

A strategy produces a *lineage*: a series of snapshots, each trained from the one before. Other packages add strategies
by entry points of the group ``cifarctl.strategies`` that name such a function.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn
from typing_extensions import override

from cifarctl.data import Images
from cifarctl.errors import SettingsError
from cifarctl.models.preprocess import Channels
from cifarctl.online.fit import Lesson

GROUP = "cifarctl.strategies"
_BUILT_IN = {
    "der++": "der_plus_plus",
    "er-ace": "er_ace",
    "finetune": "finetune",
    "mixture": "mixture",
    "replay": "replay",
}


@dataclass(frozen=True)
class Snapshot:
    """A model with its architecture's name and arguments, from which it can be rebuilt."""

    architecture: str
    arguments: dict[str, Any]
    model: nn.Module


@dataclass(frozen=True)
class Start:
    """The start of a lineage: the first snapshot, and what all snapshots share.

    `follow_relabelling` is the setting online.follow_relabelling.
    """

    snapshot: Snapshot
    mean: Channels
    std: Channels
    classes: int
    generator: torch.Generator
    follow_relabelling: bool


class Strategy(Protocol):
    """The interface of a lineage to the learner."""

    #: Whether it can learn from a lesson without labels.
    unlabelled: bool

    def observe(self, images: Images) -> None:
        """Take labelled images, in the order in which their labels arrived; all were predicted before."""

    def propose(self, lesson: Lesson) -> Snapshot:
        """Learn from a lesson and return the next snapshot, whose model is never modified afterwards."""

    def revise(self) -> Snapshot | None:
        """A new snapshot that needs no training, if there is one; called every few labelled images."""

    def step_back(self) -> None:
        """Return to the first snapshot, which is better now; other state, such as a memory, may be kept."""

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-serialisable state from which `load` restores the lineage."""

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Restore a dump taken from a lineage that began with the same `Start`."""


Begin: TypeAlias = Callable[[Start], Strategy]


class Continual(Strategy):
    """A lineage of a single model that is trained further by each lesson."""

    unlabelled = False

    def __init__(self, start: Start, learn: Callable[[nn.Module, Lesson], nn.Module]) -> None:
        self._start, self._learn = start, learn
        self._model = start.snapshot.model

    @override
    def observe(self, images: Images) -> None:
        """Ignored: the lesson contains all that is needed."""

    @override
    def propose(self, lesson: Lesson) -> Snapshot:
        self._model = self._learn(self._model, lesson)
        return Snapshot(self._start.snapshot.architecture, self._start.snapshot.arguments, self._model)

    @override
    def revise(self) -> Snapshot | None:
        """None: the model changes by training only."""
        return None

    @override
    def step_back(self) -> None:
        self._model = self._start.snapshot.model

    @override
    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(self._model.state_dict()), {}

    @override
    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self._model = copy.deepcopy(self._model)
        self._model.load_state_dict(tensors)


def names() -> list[str]:
    """Names of all strategies, those of other packages included."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def require(name: str) -> None:
    """Check that a strategy with that name exists.

    Raises:
        SettingsError: it does not.
    """
    if name not in names():
        raise SettingsError(f"online.strategy = {name}: no such strategy; there are {', '.join(names())}")


def strategy(name: str) -> Begin:
    """The `Begin` function of the strategy with that name; built-in names take precedence over other packages'.

    Raises:
        SettingsError: there is no such strategy, or it cannot be loaded.
    """
    require(name)
    if name in _BUILT_IN:
        begin: Begin = importlib.import_module(f"{__name__}.{_BUILT_IN[name]}").begin
        return begin
    (point, *_) = entry_points(group=GROUP, name=name)
    try:
        begin = point.load()
    except Exception as error:  # noqa: BLE001  another's code may raise anything
        raise SettingsError(f"online.strategy = {name}: {point.value} cannot be loaded ({error})") from None
    return begin
