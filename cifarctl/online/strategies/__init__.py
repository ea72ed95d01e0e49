"""Ways to learn from the stream: one file each, with a function ``begin`` of the type `Begin`.

A strategy is a *lineage*: a series of snapshots, each made from the one before. Other packages join by an entry point
of the group ``cifarctl.strategies`` that names such a function.
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
    """A model, and how to build it anew: the name of its architecture and the arguments of that."""

    architecture: str
    arguments: dict[str, Any]
    model: nn.Module


@dataclass(frozen=True)
class Start:
    """What a lineage begins with: a version, and the frame that all its snapshots share.

    `follow_relabelling`: whether labels that change over unmoved images are to be followed.
    """

    snapshot: Snapshot
    mean: Channels
    std: Channels
    classes: int
    generator: torch.Generator
    follow_relabelling: bool


class Strategy(Protocol):
    """How a lineage looks to the learner."""

    #: Whether it can learn from a lesson without any label.
    unlabelled: bool

    def observe(self, images: Images) -> None:
        """Labelled images, all of them predicted before, in the order of their labels' arrival."""

    def propose(self, lesson: Lesson) -> Snapshot:
        """Learn, and give the next snapshot, which nobody changes any more."""

    def revise(self) -> Snapshot | None:
        """The next snapshot, where there is one without learning; asked for every few labelled images."""

    def step_back(self) -> None:
        """Give up what was proposed: what the lineage began with does better now. What else it knows may be kept."""

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-able state from which `load` makes the same lineage again."""

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take over the dump of a lineage that began in the same way."""


Begin: TypeAlias = Callable[[Start], Strategy]


class Continual(Strategy):
    """A lineage that is one model: each snapshot is the one before after a lesson."""

    unlabelled = False

    def __init__(self, start: Start, learn: Callable[[nn.Module, Lesson], nn.Module]) -> None:
        self._start, self._learn = start, learn
        self._model = start.snapshot.model

    @override
    def observe(self, images: Images) -> None:
        """All that is needed is in the lesson."""

    @override
    def propose(self, lesson: Lesson) -> Snapshot:
        self._model = self._learn(self._model, lesson)
        return Snapshot(self._start.snapshot.architecture, self._start.snapshot.arguments, self._model)

    @override
    def revise(self) -> Snapshot | None:
        """A model changes by learning only."""
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
    """Names of all strategies, those of other packages among them."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def require(name: str) -> None:
    """See that there is a strategy of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in names():
        raise SettingsError(f"online.strategy = {name}: no such strategy; there are {', '.join(names())}")


def strategy(name: str) -> Begin:
    """How a lineage of that strategy begins; our own names cannot be taken by other packages.

    Raises:
        SettingsError: there is none of that name, or it cannot be loaded.
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
