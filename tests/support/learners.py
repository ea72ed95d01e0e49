"""Learners, streams for them, and lineages that a test has thought of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import pytest
import torch
from helpers import Home, spoil
from torch import nn

from cifarctl import events
from cifarctl.data import Images, synthetic
from cifarctl.learning import lineage as module
from cifarctl.learning.learner import GRID, Learner
from cifarctl.learning.term import Material
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Begin, Continual, Snapshot, Start, Strategy
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings
from cifarctl.training.metrics import evaluate

ONLINE = OnlineSettings(
    update_every=100,
    min_examples=100,
    buffer_size=400,
    holdout_size=100,
    holdout_every=4,
    reference_size=400,
    steps=6,
    batch_size=32,
    validation_size=100,
    watch=200,
)
NEVER = 10_000  # labelled images between two updates: none is made
BATCH = 50


T = TypeVar("T")
Batches: TypeAlias = list[tuple[list[str], Images]]


@pytest.fixture(autouse=True)
def _same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which arithmetic is faster is measured, and may come out otherwise each time."""
    monkeypatch.setattr(module, "choose_precision", lambda *_, **__: "float32")


@pytest.fixture(scope="module")
def clean() -> Images:
    return synthetic.draw(1000, seed=11)


@pytest.fixture(scope="module")
def inverted() -> Images:
    images = synthetic.draw(1000, seed=12)
    return Images(255 - images.pixels, images.labels)


def first_images(home: Home) -> Images:
    """Training images for a reference."""
    return home.dataset.train.take(home.split.train[: ONLINE.reference_size])


def open_learner(
    home: Home,
    /,
    alias: str = "production",
    *,
    begin: Begin | None = None,
    material: Material | None = None,
    **changes: Any,
) -> AbstractContextManager[Learner]:
    """A learner with other settings, a clock or step of the test's, other images, or with a strategy of its own."""
    own = {name: changes.pop(name) for name in ("on_step", "clock", "epoch", "canary", "commit") if name in changes}
    with pytest.MonkeyPatch.context() as patch:
        if begin is not None:
            patch.setattr(module, "strategy", lambda _: begin)
        return closing(
            Learner(
                home.registry,
                ONLINE.model_copy(update=changes),
                alias,
                reference=material.reference if material else first_images(home),
                validation=material.validation if material else home.dataset.train.take(home.split.validation),
                **own,
            )
        )


# --- images


def part(images: Images, start: int, end: int) -> Images:
    return images.take(torch.arange(start, end))


def joined(*parts: Images) -> Images:
    return Images(torch.cat([one.pixels for one in parts]), torch.cat([one.labels for one in parts]))


def cut(stream: Images, size: int) -> Batches:
    """Batches of `size` images with their ids."""
    ids = [f"image-{number}" for number in range(len(stream))]
    edges = [(start, min(start + size, len(stream))) for start in range(0, len(stream), size)]
    return [(ids[start:end], part(stream, start, end)) for start, end in edges]


def show(learner: Learner, images: Images, name: str, *, since: int | None = None) -> list[events.LearnEvent]:
    """Let the learner learn from images whose ids begin with `name`; `since`: the number of the first, seen before."""
    numbers = None if since is None else range(since, since + len(images))
    return list(learner.learn([f"{name}-{number}" for number in range(len(images))], images, numbers=numbers))


def live(learner: Learner, images: Images, name: str) -> list[events.LearnEvent]:
    """The learner's life: batches of images, and a look at the alias after each."""
    found: list[events.LearnEvent] = []
    for start in range(0, len(images), BATCH):
        found += show(learner, part(images, start, min(start + BATCH, len(images))), f"{name}-{start}")
        found += learner.follow_alias()
    return found


def until(wanted: type[T], learner: Learner, images: Images, name: str) -> T:
    """Let the learner learn from images until something of that kind happens; that."""
    for start in range(0, len(images) - GRID + 1, GRID):
        if hits := of(wanted, show(learner, part(images, start, start + GRID), f"{name}-{start}")):
            return hits[0]
    raise AssertionError(f"{len(images)} images, and no {wanted.__name__}")


def of(kind: type[T], found: Iterable[object]) -> list[T]:
    return [event for event in found if isinstance(event, kind)]


def promoted(found: Iterable[object]) -> list[events.RetrainResult]:
    return [result for result in of(events.RetrainResult, found) if result.outcome == "promoted"]


def moves(home: Home, alias: str = "production") -> list[tuple[str, int]]:
    """What has happened to an alias since the first version was promoted."""
    return [(move.action, move.to_version) for move in home.registry.history(alias)[1:]]


def accuracy(home: Home, version: int, images: Images) -> float:
    return evaluate(load(home.registry, version).predictor(), images).accuracy


# --- models, and lineages of them


def known(home: Home, version: int = 1) -> Snapshot:
    """What a version answers."""
    loaded = load(home.registry, version)
    return Snapshot(loaded.manifest.model, loaded.manifest.arguments, loaded.model)


def around_first(home: Home, change: Callable[[Mixture], object]) -> Snapshot:
    """The first version within a mixture of one, which `change` makes answer otherwise."""
    manifest = load(home.registry, 1).manifest
    mixture = Mixture([load(home.registry, 1).model], len(manifest.classes))
    change(mixture)
    arguments = {"member": manifest.model, "arguments": manifest.arguments, "members": 1, "classes": 10}
    return Snapshot("mixture", arguments, mixture.eval())


def inverting(home: Home, off: float = 0.0) -> Snapshot:
    """About as good on inverted images as the first version is on others, and bad on those."""
    normalisation = load(home.registry, 1).manifest.normalisation

    def invert(mixture: Mixture) -> None:
        mixture.matrix[0] = -torch.eye(3)
        mixture.shift[0] = (1 - 2 * torch.tensor(normalisation.mean)) / torch.tensor(normalisation.std) + off

    return around_first(home, invert)


def learned(home: Home) -> Begin:
    """A lineage that knows inverted images from its first proposal on, and whose proposals differ a little."""
    return series(inverting(home), inverting(home, 0.4))


def blind(home: Home, classes: int) -> Snapshot:
    """The first version, which never answers the first so many classes."""

    def forget(mixture: Mixture) -> None:
        mixture.weights.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
        mixture.prior[:classes] = 0

    return around_first(home, forget)


def broken(home: Home, value: float) -> Snapshot:
    """A network all of whose parameters are one value."""
    snapshot = known(home)
    with torch.no_grad():
        for parameter in snapshot.model.parameters():
            parameter.fill_(value)
    return snapshot


def same(start: Start) -> Strategy:
    """A lineage that learns nothing, and takes no time for it."""
    return Continual(start, lambda model, _: copy.deepcopy(model))


def spoiled(start: Start) -> Strategy:
    """A lineage that makes things worse."""

    def learn(model: nn.Module, lesson: Lesson) -> nn.Module:
        model = copy.deepcopy(model)
        with torch.no_grad():
            spoil(model)
        return model

    return Continual(start, learn)


class Series:
    """A lineage that proposes what a test has thought of: one snapshot after another, and again from the first.

    With `revises` it has the next one ready whenever it is asked, once the first was proposed. `later`: what it
    proposes after a step back.
    """

    unlabelled = False

    def __init__(
        self, snapshots: tuple[Snapshot, ...], *, revises: bool = False, later: tuple[Snapshot, ...] = ()
    ) -> None:
        self._snapshots, self._revises, self._later, self._made = snapshots, revises, later, 0

    def observe(self, images: Images) -> None:
        pass

    def propose(self, lesson: Lesson) -> Snapshot:
        lesson.on_step()
        return self._next()

    def revise(self) -> Snapshot | None:
        return self._next() if self._revises and self._made else None

    def step_back(self) -> None:
        self._snapshots = self._later or self._snapshots

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"made": self._made}

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self._made = state["made"]

    def _next(self) -> Snapshot:
        snapshot = self._snapshots[self._made % len(self._snapshots)]
        self._made += 1
        return replace(snapshot, model=copy.deepcopy(snapshot.model))


def series(*snapshots: Snapshot, revises: bool = False) -> Begin:
    return lambda _: Series(snapshots, revises=revises)


class Wandering:
    """A lineage that costs next to nothing and hangs on all it has observed and been shown, and on chance.

    It is about as good on inverted images as the first version is on others.
    """

    unlabelled = False

    def __init__(self, start: Start, snapshot: Snapshot, *, at_once: bool) -> None:
        self._start, self._snapshot = start, snapshot
        self._seen = torch.zeros(start.classes)
        self._walk = torch.randn(3, generator=start.generator) if at_once else torch.zeros(3)
        self._proposed = False

    def observe(self, images: Images) -> None:
        self._seen += torch.bincount(images.labels, minlength=self._start.classes)

    def propose(self, lesson: Lesson) -> Snapshot:
        lesson.on_step()
        self._walk = self._walk + torch.randn(3, generator=lesson.generator)
        for shown in (lesson.recent.pixels, lesson.reservoir.pixels, lesson.arrived):
            self._walk = self._walk + 1e-4 * len(shown)
        self._proposed = True
        return self._present()

    def revise(self) -> Snapshot | None:
        return self._present() if self._proposed and self._seen.sum() % 75 == 0 else None

    def step_back(self) -> None:
        self._proposed = False

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"seen": self._seen, "walk": self._walk}, {"proposed": self._proposed}

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self._seen, self._walk, self._proposed = tensors["seen"], tensors["walk"], state["proposed"]

    def _present(self) -> Snapshot:
        model = copy.deepcopy(self._snapshot.model)
        assert isinstance(model, Mixture)
        model.shift[0] += 0.3 * (self._walk + self._seen.sum()).sin()
        model.prior.copy_(self._seen / self._seen.sum())
        model.weights.copy_(torch.tensor([[0.7], [0.3], [0.0]]))
        return replace(self._snapshot, model=model)


def wandering(home: Home, *, at_once: bool = False) -> Begin:
    """`at_once`: it draws by chance when it begins already."""
    snapshot = inverting(home)
    return lambda start: Wandering(start, snapshot, at_once=at_once)


# --- learning


@dataclass(frozen=True)
class Life:
    """A whole life of a learner on a drifting stream; `left` is its registry as of a while before the end."""

    home: Home
    stream: Images
    events: list[events.LearnEvent]
    left: Home


@pytest.fixture(scope="module")
def usual(trained: Home, clean: Images, inverted: Images, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """The life of a learner with the usual strategy, which was saved after 150 of 250 images, and left after 225."""
    directory = tmp_path_factory.mktemp("usual")
    home = trained.copy(directory / "registry")
    stream = joined(part(clean, 0, 100), part(inverted, 0, 150))
    found: list[events.LearnEvent] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_precision", lambda *_, **__: "float32")
        with open_learner(home) as learner:
            for ids, images in cut(stream, 25):
                found += learner.learn(ids, images)
                if learner.buffer.labelled == 150:
                    learner.save()
                if learner.buffer.labelled == 225:
                    left = home.copy(directory / "left")
    return Life(home, stream, found, left)


# --- restarts


class Killed(Exception):
    """What ends a learner at once."""


@dataclass(frozen=True)
class Outcome:
    """What a registry tells of a learner's decisions: history, and the content of every version."""

    history: list[tuple[str, int, str]]
    versions: dict[int, str]

    @classmethod
    def of(cls, home: Home) -> Outcome:
        registry = home.registry
        return cls(
            [(move.action, move.to_version, move.why) for move in registry.history("production")],
            {number: registry.manifest(number).sha256 for number in registry.numbers()},
        )

    def first(self, entries: int) -> Outcome:
        """Its beginning."""
        history = self.history[:entries]
        return Outcome(history, {version: self.versions[version] for _, version, _ in history})

    def moves(self) -> list[str]:
        """What was done, in order."""
        return [action for action, _, _ in self.history]

    def without_refusals(self) -> Outcome:
        """Only what has moved the alias."""
        return Outcome([move for move in self.history if move[0] != "reject"], self.versions)


def lead(
    home: Home,
    begin: Begin | None,
    batches: Batches,
    *lives: tuple[Collection[int], int],
    fatal: Callable[[events.LearnEvent], bool] = lambda _: False,
    watch: int = 125,
    **changes: Any,
) -> None:
    """One learner after another: for each the batches after which it is saved, and the one after which it dies.

    It may die earlier, of what is `fatal`. The next one starts from what was saved, and is given everything again that
    has come since; after the lives that are told, the last one goes on to the end.
    """
    saved = 0
    for saves, last in [*lives, ((), len(batches))]:
        with open_learner(home, begin=begin, watch=watch, **changes) as learner, suppress(Killed):
            for number, (ids, images) in enumerate(batches[saved:last], saved + 1):
                for event in learner.learn(ids, images):
                    if fatal(event):
                        raise Killed
                assert list(learner.follow_alias()) == []
                if number in saves:
                    learner.save()
                    saved = number


@pytest.fixture(scope="module")
def there_and_back(clean: Images, inverted: Images) -> Images:
    """A stream whose colours are inverted for a while."""
    return joined(part(clean, 0, 100), part(inverted, 0, 225), part(clean, 100, 375))


@dataclass(frozen=True)
class Undisturbed:
    """What a learner decides that nobody has disturbed, nor ever saved; how many moves after how many images."""

    outcome: Outcome
    moves: dict[int, int]

    def after(self, images: int) -> Outcome:
        """As far as it had come by then."""
        return self.outcome.first(self.moves[images])

    def between(self, start: int, end: int) -> list[str]:
        """What was done after the first `start` images, up to the first `end`."""
        return self.outcome.moves()[self.moves[start] : self.moves[end]]


@pytest.fixture(scope="module")
def undisturbed(trained: Home, there_and_back: Images, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    home = trained.copy(tmp_path_factory.mktemp("undisturbed") / "registry")
    moves = {0: 1}  # when it was trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_precision", lambda *_, **__: "float32")
        with open_learner(home, begin=wandering(home), watch=125) as learner:
            for ids, images in cut(there_and_back, 25):
                list(learner.learn(ids, images))
                moves[learner.buffer.labelled] = len(home.registry.history("production"))
    return Undisturbed(Outcome.of(home), moves)
