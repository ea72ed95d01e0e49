"""The learner without a broker: what it promotes, what it refuses, what it takes back, and what survives a restart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest
import torch
from helpers import ALL, Home, open_registry, republish, spoil, tagged, tags
from torch import nn

from cifarctl import events, models
from cifarctl.data import Images, synthetic
from cifarctl.errors import DataError, RegistryError, SettingsError, Superseded, VersionNotFound
from cifarctl.learning import lineage as module
from cifarctl.learning.checkpoints import CHECKPOINT
from cifarctl.learning.learner import GRID, Learner
from cifarctl.learning.schedule import QUICK_UPDATES
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.online.concept import MIN_LABELLED
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Begin, Continual, Snapshot, Start, Strategy
from cifarctl.registry import Alias, Move
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish, publish_like
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


def open_learner(
    home: Home, /, alias: str = "production", *, begin: Begin | None = None, **changes: Any
) -> AbstractContextManager[Learner]:
    """A learner with other settings, a clock or step of the test's, or with a strategy of its own."""
    own = {name: changes.pop(name) for name in ("on_step", "clock", "epoch", "canary", "commit") if name in changes}
    with pytest.MonkeyPatch.context() as patch:
        if begin is not None:
            patch.setattr(module, "strategy", lambda _: begin)
        return closing(
            Learner(
                home.registry,
                ONLINE.model_copy(update=changes),
                alias,
                reference=home.dataset.train.take(home.split.train[: ONLINE.reference_size]),
                validation=home.dataset.train.take(home.split.validation),
                **own,
            )
        )


# --- images


def part(images: Images, start: int, end: int) -> Images:
    return images.take(torch.arange(start, end))


def shuffled(count: int) -> list[int]:
    """The first `count` numbers, for `tagged`, in no order in which the images would seem to drift."""
    numbers: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return numbers


def joined(*parts: Images) -> Images:
    return Images(torch.cat([one.pixels for one in parts]), torch.cat([one.labels for one in parts]))


def cut(stream: Images, size: int) -> Batches:
    """Batches of `size` images with their ids."""
    ids = [f"image-{number}" for number in range(len(stream))]
    edges = [(start, min(start + size, len(stream))) for start in range(0, len(stream), size)]
    return [(ids[start:end], part(stream, start, end)) for start, end in edges]


def with_classes_exchanged(images: Images) -> Images:
    """Class 0 goes by the name of 1 and the other way round, 2 by that of 3, and so on."""
    return Images(images.pixels, images.labels ^ 1)


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


def exchanging(home: Home) -> Snapshot:
    """As good where the labels of classes are exchanged as the first version is where they are not."""

    def exchange(mixture: Mixture) -> None:
        mixture.weights.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
        mixture.renaming.copy_(mixture.renaming[torch.arange(len(mixture.renaming)) ^ 1])

    return around_first(home, exchange)


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


def promote(home: Home, snapshot: Snapshot) -> int:
    """Put a model into production by hand, as one that was trained; its version."""
    manifest = publish_like(
        home.registry,
        copy.deepcopy(snapshot.model),
        home.registry.manifest(1),
        name=snapshot.architecture,
        arguments=snapshot.arguments,
        settings={},
        metrics={},
        parent=None,
        origin="train",
    )
    home.registry.promote(manifest.version, who="somebody", why="by hand")
    return manifest.version


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


def watching(lessons: list[Lesson]) -> Begin:
    """Lineages that learn nothing, and whose lessons are written down."""

    def learn(model: nn.Module, lesson: Lesson) -> nn.Module:
        lessons.append(lesson)
        return copy.deepcopy(model)

    return lambda start: Continual(start, learn)


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


def test_a_drift_is_noticed_learned_and_promoted(usual: Life, inverted: Images) -> None:
    assert OnlineSettings().strategy == ONLINE.strategy == "mixture"
    found, fresh = usual.events, part(inverted, 600, 1000)
    (drift, *_) = of(events.DriftDetected, found)
    assert 100 < drift.at <= 175
    assert drift.error_after > drift.error_before + 0.3
    assert abs(drift.at - drift.since - 100) <= 15
    update = found[found.index(drift) :]
    assert of(events.RateChanged, update)[0].new == ONLINE.learning_rate_max
    assert of(events.RetrainStarted, update)[0].trigger == "drift"
    (first, *later) = promoted(found)
    assert (first.champion["version"], first.challenger["version"]) == (1, 2)
    assert first.challenger["stream_accuracy"] > first.champion["stream_accuracy"]
    assert any("the inputs have moved away from the validation images" in reason for reason in first.reasons)
    assert later  # once it serves it goes on learning
    # And it was worth it, on images that nobody has seen.
    champion = usual.home.registry.resolve("production")
    assert champion == later[-1].challenger["version"]
    assert accuracy(usual.home, champion, fresh) > accuracy(usual.home, 1, fresh) + 0.2


def test_inputs_that_move_are_noticed_where_errors_hardly_tell(home: Home, clean: Images) -> None:
    darker = Images(clean.pixels[200:400] // 2, clean.labels[200:400])
    lessons: list[Lesson] = []
    with open_learner(home, begin=watching(lessons)) as learner:
        found = live(learner, joined(part(clean, 0, 200), darker), "clean")
    (drift, *_) = of(events.DriftDetected, found)
    assert (drift.detector, abs(drift.at - drift.since - 200) <= 25) == ("inputs", True)
    assert [lesson.drifted for lesson in lessons[:3]] == [False, False, True]


def test_images_without_labels_do_not_date_a_drift_back(home: Home, clean: Images, inverted: Images) -> None:
    lessons: list[Lesson] = []
    with open_learner(home, begin=watching(lessons)) as learner:
        show(learner, part(clean, 0, 200), "clean")
        list(learner.see(part(inverted, 0, 100).pixels))
        found = show(learner, part(inverted, 100, 150), "inverted")
    assert of(events.DriftDetected, found)
    drifted = next(lesson for lesson in lessons if lesson.drifted)
    old = {image.sum().item() for image in part(clean, 0, 200).pixels.long()}
    assert not [image for image in drifted.recent.pixels.long() if image.sum().item() in old]


def test_a_promoted_version_tells_where_it_comes_from(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        result = promoted(live(learner, part(inverted, 0, 200), "inverted"))[0]
    first, second = home.registry.manifest(1), home.registry.manifest(2)
    assert (second.parent, second.origin, second.model) == (1, "learner", "mixture")
    assert (second.classes, second.split, second.normalisation) == (first.classes, first.split, first.normalisation)
    assert second.settings["strategy"] == ONLINE.strategy
    assert second.metrics["validation_accuracy"] == result.challenger["validation_accuracy"]
    assert second.metrics["stream_accuracy"] == result.challenger["stream_accuracy"]
    move = next(move for move in home.registry.history("production") if move.to_version == 2)
    assert (move.action, move.who, move.from_version) == ("promote", "learner", 1)
    assert move.why == "; ".join(result.reasons)


@pytest.mark.parametrize("begin", [same, spoiled])
def test_nothing_is_promoted_on_a_calm_stream(home: Home, clean: Images, begin: Begin) -> None:
    with open_learner(home, begin=begin) as learner:
        results = of(events.RetrainResult, live(learner, part(clean, 0, 300), "clean"))
    assert [result.outcome for result in results] == ["rejected"] * 3
    assert all(result.challenger["version"] is None for result in results)
    assert home.registry.numbers() == [1]  # what is refused is not published
    assert moves(home) == [("reject", 1)] * 3
    assert home.registry.history("production")[-1].why == "; ".join(results[-1].reasons)


def test_nothing_is_learned_from_labels_that_mean_nothing(home: Home, clean: Images) -> None:
    labels = torch.randint(10, (300,), generator=torch.Generator().manual_seed(0))
    with open_learner(home, strategy="replay") as learner:
        results = of(events.RetrainResult, live(learner, Images(clean.pixels[:300], labels), "noise"))
    assert {result.outcome for result in results} == {"rejected"}
    assert home.registry.resolve("production") == 1


def test_lessons_never_show_held_out_or_validation_images(home: Home) -> None:
    lessons: list[Lesson] = []
    numbers = shuffled(500)
    with open_learner(home, begin=watching(lessons), buffer_size=100) as learner:
        live(learner, tagged(numbers), "tagged")
    held_out = set(numbers[3::4])
    assert len(lessons) == 5
    for lesson in lessons:
        shown = set(tags(lesson.recent)) | set(tags(lesson.reservoir))
        assert shown
        assert not shown & held_out
    train = home.dataset.train.take(home.split.train).pixels.flatten(1).long().sum(dim=1)
    validation = home.dataset.train.take(home.split.validation).pixels.flatten(1).long().sum(dim=1)
    reference = lessons[0].reference.pixels.flatten(1).long().sum(dim=1)
    assert set(reference.tolist()) <= set(train.tolist())
    assert not set(reference.tolist()) >= set(validation.tolist())


def test_after_a_drift_recent_means_since_the_drift(home: Home, clean: Images, inverted: Images) -> None:
    lessons: list[Lesson] = []
    with open_learner(home, begin=watching(lessons)) as learner:
        show(learner, part(clean, 0, 200), "clean")
        drift = until(events.DriftDetected, learner, inverted, "inverted")
        show(learner, part(inverted, 500, 600), "more")
    calm, _, first, second, *_ = lessons
    assert [lesson.drifted for lesson in (calm, first, second)] == [False, True, False]
    assert calm.learning_rate < first.learning_rate == ONLINE.learning_rate_max
    assert len(calm.recent) == 75
    assert len(calm.arrived) == 100
    # Looked at after 225, 250, ... images: the drift is learned from as soon as there are enough of the new ones.
    begun = drift.at - drift.since
    looked = next(at for at in range(225, 300, GRID) if at >= drift.at and at - begun >= MIN_LABELLED)
    assert abs(len(first.recent) - (looked - begun) * 3 // 4) <= 1
    assert abs(len(first.arrived) - (looked - begun)) < GRID
    assert abs(begun - 200) <= 15


def test_images_whose_labels_have_not_come_are_shown_without_them(home: Home) -> None:
    lessons: list[Lesson] = []
    numbers = shuffled(500)
    images = tagged(numbers)
    with open_learner(home, begin=watching(lessons)) as learner:
        assert list(learner.see(part(images, 0, 30).pixels)) == []
        show(learner, part(images, 0, 30), "late", since=0)  # seen already
        show(learner, part(images, 100, 170), "prompt")
        assert learner.status().labelled == 100
        assert list(learner.see(part(images, 170, 500).pixels)) == []
        show(learner, part(images, 170, 270), "late too", since=100)
    unlabelled = torch.zeros(250, dtype=torch.int64)
    first, second = (tags(Images(lesson.arrived, unlabelled)) for lesson in lessons)
    assert first == numbers[:30] + numbers[100:170]
    assert second == numbers[250:]  # the newest only


def test_an_image_is_learned_from_once(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same) as learner:
        show(learner, part(clean, 0, 80), "clean")
        before = learner.status()
        assert show(learner, part(clean, 0, 80), "clean") == []
        assert learner.status() == before
        assert list(learner.learn(["a", "b", "a", "a", "c"], part(clean, 80, 85))) == []
        assert learner.status().labelled == learner.fresh == 83


def test_learning_from_nothing(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        assert show(learner, part(clean, 0, 0), "none") == []
        assert learner.status().accuracy is None


def test_the_status_tells_where_the_learner_stands(home: Home, clean: Images) -> None:
    images = part(clean, 0, 90)
    with open_learner(home, begin=same, strategy="replay") as learner:
        started = learner.started()
        show(learner, images, "clean")
        status = learner.status()
        assert learner.status() == status
    assert (started.version, started.strategy, started.size, started.capacity) == (1, "replay", 0, 400)
    assert (status.labelled, status.holdout, status.size, status.capacity) == (90, 22, 68, 400)
    kept = torch.ones(90, dtype=torch.bool)
    kept[3::4] = False
    assert status.class_counts == tuple(torch.bincount(images.labels[kept], minlength=10).tolist())
    assert status.accuracy == pytest.approx(accuracy(home, 1, images))
    assert (status.drift, status.until_update, status.learning_rate) == ("calm", 10, ONLINE.learning_rate)


def test_the_status_tells_of_what_predicts_beside_the_champion(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        show(learner, part(inverted, 0, 100), "a")
        trial = learner.status().shadow
        assert trial is not None
        assert (trial.version, trial.images, trial.accuracy, trial.evidence) == (None, 0, None, 1.0)
        won = until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        assert won.outcome == "promoted"
        watched = learner.status().shadow
        assert watched is not None
        assert (watched.version, watched.images) == (1, 0)
        show(learner, part(inverted, 200, 225), "c")
        watched = learner.status().shadow
        assert watched is not None
        assert watched.images == 25
        assert watched.accuracy == pytest.approx(accuracy(home, 1, part(inverted, 200, 225)))
        assert watched.served == pytest.approx(accuracy(home, 2, part(inverted, 200, 225)))
        assert watched.evidence < 1 < watched.wanted


def test_an_update_without_a_drift_lowers_the_learning_rate(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same) as learner:
        (change,) = of(events.RateChanged, show(learner, part(clean, 0, 100), "clean"))
        assert (change.old, change.new) == (ONLINE.learning_rate, learner.status().learning_rate)
        assert change.new < change.old


# --- the gate


def test_a_trial_is_won_between_two_updates(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        first = show(learner, part(inverted, 0, 100), "a")
        assert [result.outcome for result in of(events.RetrainResult, first)] == ["rejected"]
        found = show(learner, part(inverted, 100, 125), "b")
        result = found[-1]
        assert of(events.RetrainStarted, found) == []
        assert isinstance(result, events.RetrainResult)
        assert (result.outcome, result.examples, learner.champion) == ("promoted", 25, 2)
    pairs = part(inverted, 100, 125)  # what both predicted before either had learned from it
    assert result.champion["stream_accuracy"] == pytest.approx(accuracy(home, 1, pairs))
    assert result.challenger["stream_accuracy"] == pytest.approx(accuracy(home, 2, pairs))


@pytest.mark.parametrize("canary", [False, True])
@pytest.mark.slow
def test_what_could_not_be_loaded_is_not_promoted(home: Home, inverted: Images, canary: bool) -> None:
    """A pool of three is larger than the registry allows: the learner says so and goes on."""
    small = Home(open_registry(home.registry.dir, max_model_mb=1), home.dataset, home.split)
    with open_learner(small, canary=canary) as learner:
        results = of(events.RetrainResult, show(learner, part(inverted, 0, 250), "a"))
    refused = [reason for result in results for reason in result.reasons if "not promoted" in reason]
    assert refused
    assert all("registry.max_model_mb = 1" in reason for reason in refused)
    assert small.registry.numbers() == [1]


def test_less_error_allowed_makes_a_trial_longer(home: Home, inverted: Images, tmp_path: Path) -> None:
    needed = []
    for alpha in (0.1, 1e-9):
        own = home.copy(tmp_path / str(alpha))
        with open_learner(own, begin=learned(own), gate_alpha=alpha, update_every=NEVER) as learner:
            show(learner, part(inverted, 0, 100), "a")
            list(learner.update("by hand"))
            until(events.RetrainResult, learner, part(inverted, 100, 300), "b")
            needed.append(learner.status().labelled)
    assert needed[0] < needed[1]


def test_a_drift_begins_the_trial_anew(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=same) as learner:
        show(learner, part(clean, 0, 200), "clean")
        before = learner.status().shadow
        drift = until(events.DriftDetected, learner, inverted, "inverted")
        after = learner.status().shadow
        assert before is not None
        assert after is not None
        assert before.images == 100
        assert (
            after.images <= learner.status().labelled - drift.at + GRID
        )  # noticed as images came, before their labels
        assert after.wanted > before.wanted  # each trial has less to spend


def test_what_has_won_is_followed_without_another_trial(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        found = live(learner, part(inverted, 0, 300), "inverted")
    results = of(events.RetrainResult, found)
    assert [result.outcome for result in results] == ["rejected", "promoted", "promoted", "promoted"]
    assert moves(home) == [("reject", 1), ("promote", 2), ("promote", 3), ("promote", 4)]
    assert [home.registry.manifest(version).parent for version in (2, 3, 4)] == [1, 2, 3]
    assert [home.registry.manifest(version).metrics["labelled"] for version in (2, 3, 4)] == [125, 200, 300]
    assert any("held-out images" in reason for reason in results[-1].reasons)


def test_a_revised_snapshot_takes_part_without_an_update(home: Home, inverted: Images) -> None:
    """It takes the place of the challenger, whose trial it continues, and afterwards follows."""
    begin = series(known(home), inverting(home), inverting(home, 0.4), revises=True)
    with open_learner(home, begin=begin, update_every=NEVER) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))  # what is no better
        found = show(learner, part(inverted, 100, 225), "b")
    assert of(events.RetrainStarted, found) == []
    assert learner.updates == 1
    assert {result.outcome for result in of(events.RetrainResult, found)} == {"promoted"}
    (first, second, *_) = promoted(found)
    assert (first.champion["version"], first.challenger["version"]) == (1, 2)
    assert (second.champion["version"], second.challenger["version"]) == (2, 3)


def test_what_falls_on_held_out_images_is_not_followed(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=series(inverting(home), known(home), inverting(home, 0.2))) as learner:
        show(learner, part(inverted, 0, 200), "a")  # the bad one at 200
        assert learner.champion == 2
        show(learner, part(inverted, 200, 300), "b")
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2), ("promote", 3)]
    assert "significant loss on held-out images" in home.registry.history("production")[3].why


def test_what_falls_below_the_guard_is_not_followed(home: Home, clean: Images) -> None:
    """Inputs that have not moved, and next to nothing held out: only the validation images can tell."""
    start = promote(home, blind(home, 3))
    begin = series(known(home), blind(home, 6))
    with open_learner(home, begin=begin, holdout_every=150) as learner:
        live(learner, part(clean, 0, 200), "clean")
    history = home.registry.history("production")[2:]
    assert [(move.action, move.to_version) for move in history] == [("reject", start), ("promote", 3), ("reject", 3)]
    assert "validation accuracy" in history[2].why.split(";")[0]
    assert "below the floor" in history[2].why
    assert "not below" not in history[2].why


@pytest.mark.parametrize("followed", [False, True])
def test_labels_exchanged_over_unmoved_images_are_followed_only_on_demand(
    home: Home, clean: Images, followed: bool
) -> None:
    exchanged = with_classes_exchanged(clean)
    begin = series(exchanging(home))
    with open_learner(home, begin=begin, follow_relabelling=followed, update_every=500) as learner:
        show(learner, part(exchanged, 0, 100), "a")
        list(learner.update("by hand"))
        found = show(learner, part(exchanged, 100, 575), "b")
        (result, *_) = of(events.RetrainResult, [*found, *learner.update("by hand")])
    assert followed == (home.registry.resolve("production") > 1)
    if followed:
        assert any("online.follow_relabelling" in reason for reason in result.reasons)
    else:
        assert (result.outcome, home.registry.numbers()) == ("rejected", [1])
        assert result.challenger["stream_accuracy"] > result.champion["stream_accuracy"] + 0.3
        assert "below the floor" in result.reasons[0]  # what decided comes first
        assert "not below" not in result.reasons[0]


def test_a_spoiled_challenger_never_follows(home: Home, inverted: Images) -> None:
    """The guard counts for nothing while the inputs have moved."""
    with open_learner(home, begin=series(inverting(home), broken(home, 0.0))) as learner:
        live(learner, part(inverted, 0, 200), "inverted")
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2)]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_what_answers_nothing_finite_never_follows(home: Home, inverted: Images, value: float) -> None:
    """Where nothing is held out that could tell."""
    begin = series(inverting(home), broken(home, value))
    with open_learner(home, begin=begin, holdout_every=500) as learner:
        live(learner, part(inverted, 0, 200), "inverted")
        assert learner.champion == 2
    assert moves(home) == [("reject", 1), ("promote", 2), ("reject", 2)]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_what_answers_nothing_finite_never_wins(home: Home, inverted: Images, value: float) -> None:
    """Not even where all images are of the class that such a network seems to name."""
    first_class = inverted.take((inverted.labels == 0).nonzero()[:, 0])
    stream = joined(part(inverted, 0, 100), first_class)
    with open_learner(home, begin=series(broken(home, value))) as learner:
        live(learner, stream, "inverted")
        assert learner.champion == 1
    assert home.registry.resolve("production") == 1


def test_what_is_revised_to_answer_nothing_finite_never_follows(home: Home, inverted: Images) -> None:
    begin = series(inverting(home), inverting(home), broken(home, float("nan")), revises=True)
    with open_learner(home, begin=begin, holdout_every=500, update_every=NEVER) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        show(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
    assert home.registry.resolve("production") == 2


# --- when


def test_an_update_is_due_by_count(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same, update_every=150) as learner:
        assert show(learner, part(clean, 0, 149), "a") == []
        assert learner.status().until_update == 1
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 149, 150), "b"))
        assert (started.trigger, started.examples, learner.updates) == ("150 labelled images", 150, 1)
        assert (learner.due(), learner.fresh, learner.status().until_update) == (None, 0, 150)


def test_no_update_before_there_are_enough_examples(home: Home, clean: Images) -> None:
    with open_learner(home, begin=same, update_every=25) as learner:
        assert show(learner, part(clean, 0, 99), "a") == []
        assert learner.due() is None
        result = learner.not_enough(99)
        assert (result.outcome, result.examples, result.challenger) == ("not_enough_data", 99, {})
        assert result.champion["version"] == 1
        assert result.reasons == ["99 labelled examples since the last update, 100 are wanted"]
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 99, 100), "b"))
        assert started.examples == 100
    assert moves(home) == [("reject", 1)]


def test_an_update_is_due_by_time(home: Home, clean: Images) -> None:
    now = 0.0
    with open_learner(home, begin=same, update_every=NEVER, clock=lambda: now) as learner:
        show(learner, part(clean, 0, 120), "a")
        now = 299.0
        assert learner.due() is None
        now = 300.0
        assert learner.due() == "300 s"
        list(learner.update("300 s"))
        now = 700.0
        assert learner.due() is None  # no new examples to learn from
        (started,) = of(events.RetrainStarted, show(learner, part(clean, 120, 240), "b"))
        assert (started.trigger, started.examples) == ("400 s", 55)


def test_a_drift_makes_updates_come_more_often_for_a_while(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=same) as learner:
        show(learner, part(clean, 0, 225), "clean")
        until(events.DriftDetected, learner, inverted, "inverted")
        assert learner.status().drift == "drift"
        found = show(learner, part(inverted, 500, 850), "more")
        fresh = [started.examples for started in of(events.RetrainStarted, found)]
        quick = fresh.count(50)
        assert QUICK_UPDATES - 1 <= quick <= QUICK_UPDATES
        assert fresh[-1] == 100
        assert learner.status().drift == "calm"


def test_an_update_can_be_broken_off_and_is_due_again(home: Home, clean: Images) -> None:
    class Stopped(Exception):
        pass

    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stopped

    with open_learner(home, strategy="replay", on_step=stop) as learner:
        with pytest.raises(Stopped):
            show(learner, part(clean, 0, 100), "clean")
        assert (learner.updates, learner.fresh, learner.due()) == (0, 100, "100 labelled images")
        assert moves(home) == []
        show(learner, part(clean, 100, 125), "more")
        assert (learner.updates, learner.fresh, learner.due()) == (1, 0, None)


# --- the alias and other hands


def test_a_version_promoted_by_hand_becomes_the_champion(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return same(start)

    with open_learner(home, begin=begin) as learner:
        assert list(learner.follow_alias()) == []
        home.registry.promote(other, who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]
        assert list(learner.follow_alias()) == []
        assert learner.champion == other
        home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(other, 1)]
        (result,) = of(events.RetrainResult, show(learner, part(clean, 0, 100), "clean"))
        assert result.champion["version"] == 1
    assert len(begun) == 3  # a lineage from each


def test_what_was_withdrawn_by_hand_is_not_proposed_again(home: Home, inverted: Images) -> None:
    """The lineage ends with it: what comes next begins from what serves, and has to win a trial of its own."""
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start) if len(begun) == 1 else same(start)

    with open_learner(home, begin=begin) as learner:
        live(learner, part(inverted, 0, 200), "a")
        assert learner.champion == 3
        for _ in range(2):
            home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, 1)]
        assert begun[1].snapshot.architecture == home.registry.manifest(1).model
        found = live(learner, part(inverted, 200, 400), "b")
    assert {result.outcome for result in of(events.RetrainResult, found)} == {"rejected"}
    assert home.registry.resolve("production") == 1
    assert home.registry.numbers() == [1, 2, 3]


def test_nothing_is_learned_from_a_version_that_knows_what_it_is_judged_by(home: Home, clean: Images) -> None:
    """At the start it is refused; where somebody promotes it later the learner stays with the one before."""
    full = republish(home.registry, seen=ALL)
    with open_learner(home) as learner:
        home.registry.promote(full, who="somebody", why="by hand")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "stays with version 1" in notice.message
        assert "without --full" in notice.message
        assert list(learner.follow_alias()) == []
        assert learner.champion == 1
    with pytest.raises(DataError, match=rf"version {full} was trained on train, validation, stream images"):
        open_learner(home)
    with open_learner(home, allow_full=True) as learner:
        assert learner.champion == full


def test_what_was_imported_may_be_learned_from(home: Home) -> None:
    """The tutorial's model, say: nobody can tell what it has seen."""
    first = load(home.registry, 1)
    seen = first.manifest.split.model_copy(update={"seen": ALL})
    imported = publish_like(
        home.registry, first.model, first.manifest.model_copy(update={"split": seen}), settings={}, metrics={},
        parent=None, origin="import",
    )  # fmt: skip
    home.registry.promote(imported.version, who="somebody", why="by hand")
    with open_learner(home) as learner:
        assert learner.champion == imported.version


def test_an_alias_that_went_away_and_came_back_changes_nothing(home: Home) -> None:
    other = republish(home.registry)
    with open_learner(home) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == []
        assert learner.champion == 1


def test_a_damaged_version_is_not_adopted(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    with open_learner(home) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        (home.registry.path(other) / "model.safetensors").write_bytes(b"broken")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "stays with version 1" in notice.message
        assert list(learner.follow_alias()) == []
        show(learner, part(clean, 0, 40), "clean")
        assert learner.champion == 1


def test_a_version_with_other_classes_is_not_adopted(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        manifest = home.registry.manifest(1)
        other = publish(
            home.registry,
            models.build("net", {"classes": 3}),
            name="net",
            arguments={"classes": 3},
            normalisation=manifest.normalisation,
            classes=("a", "b", "c"),
            split=manifest.split,
            settings={},
            metrics={},
            parent=None,
            origin="train",
        )
        home.registry.promote(other.version, who="somebody", why="by mistake")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "has other classes" in notice.message
        assert learner.champion == 1
        assert list(learner.follow_alias()) == []
        show(learner, part(clean, 0, 20), "a")


def test_whoever_moves_the_alias_during_an_update_wins(home: Home, inverted: Images) -> None:
    other = republish(home.registry)
    interfering = False

    def interfere() -> None:
        if interfering:
            home.registry.promote(other, who="somebody", why="by hand")

    with open_learner(home, begin=learned(home), on_step=interfere) as learner:
        live(learner, part(inverted, 0, 175), "a")
        assert learner.champion == 3
        interfering = True
        (result,) = of(events.RetrainResult, show(learner, part(inverted, 175, 200), "b"))
        assert result.outcome == "rejected"
        assert any(reason == "not promoted: somebody else has moved the alias production" for reason in result.reasons)
        assert home.registry.resolve("production") == other
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, other)]


def test_a_refusal_that_somebody_else_precedes_is_not_recorded(home: Home, clean: Images) -> None:
    """It is one of a challenger of what was in production then."""
    other = republish(home.registry)
    with open_learner(home, begin=same, update_every=50) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        (result,) = of(events.RetrainResult, show(learner, part(clean, 0, 100), "a"))
        assert "not recorded: alias production names version 2" in result.reasons[-1]
        assert [move.action for move in home.registry.history()] == ["promote", "promote"]
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]


def test_another_alias_can_be_learned_for(home: Home, inverted: Images) -> None:
    home.registry.promote(1, alias="canary", who="test", why="first")
    with open_learner(home, alias="canary", begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 150), "inverted")
    assert moves(home, "canary") == [("reject", 1), ("promote", 2)]
    assert home.registry.resolve("production") == 1


def test_what_another_learner_has_taken_over_is_left_alone(home: Home, inverted: Images) -> None:
    """It neither moves the alias nor writes a checkpoint, whatever it goes on to decide."""
    home.registry.begin_epoch(1)
    with open_learner(home, begin=learned(home), epoch=1) as old:
        live(old, part(inverted, 0, 125), "inverted")
        old.save()
        kept = (home.registry.dir / "learner" / CHECKPOINT).read_bytes()
        home.registry.begin_epoch(2)
        live(old, part(inverted, 125, 150), "inverted")
        assert moves(home)[-1] == ("promote", 2)
        with pytest.raises(Superseded, match="this is epoch 2"):
            old.save()
    assert (home.registry.dir / "learner" / CHECKPOINT).read_bytes() == kept


def test_a_decision_is_committed_before_it_is_carried_out(home: Home, inverted: Images) -> None:
    """And where that is refused, it is not carried out."""
    committed: list[Move] = []

    def commit(move: Move) -> None:
        assert move not in home.registry.history()
        if move.action == "promote":
            raise Superseded("another learner has taken over")
        committed.append(move)

    with open_learner(home, begin=learned(home), epoch=3, commit=commit) as learner, pytest.raises(Superseded):
        live(learner, part(inverted, 0, 400), "inverted")
    assert [move.action for move in committed] == ["reject"]
    assert committed[0].same(home.registry.history()[-1])
    assert committed[0].epoch == 3
    assert home.registry.resolve("production") == 1


def test_without_a_champion_there_is_nothing_to_learn_from(home: Home) -> None:
    with pytest.raises(VersionNotFound), open_learner(home, alias="staging"):
        pass


def test_an_unknown_strategy(home: Home) -> None:
    with pytest.raises(SettingsError, match=r"online\.strategy = magic: no such strategy; there are .*mixture"):
        open_learner(home, strategy="magic")


# --- going back


def test_a_promotion_that_turns_out_bad_is_taken_back(home: Home, clean: Images, inverted: Images) -> None:
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start)

    with open_learner(home, begin=begin, update_every=50) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        assert learner.champion == 3  # it has followed once
        back = until(events.RolledBack, learner, part(clean, 0, 100), "clean")
        assert (back.new, learner.champion) == (1, 1)
        assert home.registry.resolve("production") == 1
        move = next(move for move in home.registry.history("production") if move.action == "rollback")
        assert (move.who, move.from_version, move.to_version) == ("learner", back.old, 1)
        assert move.why == back.reason
        assert "version 1 alone gets" in back.reason
        # The lineage goes on, but has to win another trial; nothing more is taken back.
        assert [start.snapshot.architecture for start in begun] == ["net"]
        assert list(learner.follow_alias()) == []
        later = live(learner, part(clean, 100, 250), "later")
        assert (of(events.RolledBack, later), promoted(later)) == ([], [])
        assert learner.champion == 1


def test_a_lineage_that_was_taken_back_can_win_again(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        until(events.RolledBack, learner, part(clean, 0, 200), "clean")
        found = live(learner, part(inverted, 150, 400), "again")
        assert promoted(found)[0].champion["version"] == 1
        assert accuracy(home, learner.champion, part(inverted, 600, 1000)) > 0.5


def test_a_good_promotion_stays(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        found = live(learner, part(inverted, 0, 300), "inverted")
        assert of(events.RolledBack, found) == []
        assert learner.champion == 4


def test_without_a_watch_nothing_is_taken_back(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), watch=0) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        status = learner.status()
        assert of(events.RolledBack, show(learner, part(clean, 0, 200), "clean")) == []
        assert (learner.champion > 1, status.shadow) == (True, None)


def test_the_watch_ends_and_begins_again_with_what_follows(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), watch=50, update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        show(learner, part(inverted, 200, 250), "c")
        assert learner.status().shadow is None
        assert of(events.RolledBack, show(learner, part(clean, 0, 25), "d")) == []
        (result,) = promoted(learner.update("by hand"))
        watched = learner.status().shadow
        assert watched is not None
        assert (watched.version, watched.images) == (1, 0)
        back = until(events.RolledBack, learner, part(clean, 25, 100), "e")
        assert (back.old, back.new) == (result.challenger["version"], 1)


def test_the_watch_is_as_long_as_it_is_said_to_be(home: Home, clean: Images, inverted: Images) -> None:
    """The last of its images count."""
    with open_learner(home, begin=learned(home), watch=25, update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        found = show(learner, part(clean, 0, 25), "d")
        assert [event.new for event in of(events.RolledBack, found)] == [1]


def test_a_promotion_by_hand_ends_the_watch(home: Home, clean: Images, inverted: Images) -> None:
    other = republish(home.registry, spoil)
    with open_learner(home, begin=learned(home), update_every=500) as learner:
        show(learner, part(inverted, 0, 100), "a")
        list(learner.update("by hand"))
        until(events.RetrainResult, learner, part(inverted, 100, 200), "b")
        home.registry.promote(other, who="somebody", why="they must know")
        # Before the learner has noticed: the rollback that it wants comes too late.
        found = show(learner, part(clean, 0, 100), "c")
        assert of(events.RolledBack, found) == []
        (notice,) = of(events.Notice, found)
        assert "version 1 performs better, but rolling back failed" in notice.message
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, other)]
        assert of(events.RolledBack, show(learner, part(clean, 100, 200), "d")) == []
    assert home.registry.resolve("production") == other


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


def once(wanted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether something is wanted, but only the first time."""
    met = False

    def first(event: Any) -> bool:
        nonlocal met
        found = not met and wanted(event)
        met = met or found
        return found

    return first


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


def test_an_undisturbed_life_has_everything_in_it(undisturbed: Undisturbed) -> None:
    """The tests below interrupt it where something has just happened; what exactly differs with the arithmetic."""
    assert set(undisturbed.between(0, 150)) == {"reject"}
    assert undisturbed.between(150, 250).count("promote") >= 2
    assert "promote" in undisturbed.between(200, 250)
    assert "promote" in undisturbed.between(250, 350)
    assert "rollback" not in undisturbed.between(0, 350)
    assert "rollback" in undisturbed.between(350, 400)
    assert "reject" in undisturbed.between(400, 450)
    assert len(undisturbed.outcome.history) > undisturbed.moves[450]


@pytest.mark.parametrize("size", [7, 250])
def test_decisions_do_not_depend_on_how_images_are_cut_into_batches(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, size: int
) -> None:
    lead(home, wandering(home), cut(part(there_and_back, 0, 250), size))
    assert Outcome.of(home) == undisturbed.after(250)


def test_stopping_and_starting_changes_nothing(home: Home, there_and_back: Images, undisturbed: Undisturbed) -> None:
    """It dies after every batch, but has been saved before."""
    lead(home, wandering(home), cut(there_and_back, 120), *[({batch}, batch) for batch in range(1, 6)])
    assert Outcome.of(home) == undisturbed.outcome


def test_promotions_are_not_made_again_after_a_death(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    lead(home, wandering(home), cut(there_and_back, BATCH)[:7], ((1, 2, 3), 4), ((), 6))
    assert Outcome.of(home) == undisturbed.after(350)


def test_promotions_are_not_made_again_after_two_deaths(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    """The second learner is saved before it has come to what the first one had promoted."""
    batches = cut(there_and_back, 25)[:8]
    lead(home, wandering(home), batches, ((5,), 8), ((6,), 6))
    assert Outcome.of(home).without_refusals() == undisturbed.after(200).without_refusals()


def test_refusals_are_not_told_again_after_a_death(
    home: Home, there_and_back: Images, undisturbed: Undisturbed
) -> None:
    lead(home, wandering(home), cut(there_and_back, BATCH)[:3], ((1,), 2))
    assert Outcome.of(home) == undisturbed.after(150)


@pytest.fixture(scope="module")
def dead_after_rollback(trained: Home, there_and_back: Images, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What came of the life of a learner that had gone back since it was last saved when it died."""
    home = trained.copy(tmp_path_factory.mktemp("dead") / "registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_precision", lambda *_, **__: "float32")
        lead(home, wandering(home), cut(there_and_back, BATCH)[:9], ((7,), 8))
    return Outcome.of(home)


def test_nothing_is_promoted_again_after_a_rollback_and_a_death(
    undisturbed: Undisturbed, dead_after_rollback: Outcome
) -> None:
    assert dead_after_rollback.without_refusals() == undisturbed.after(450).without_refusals()


def test_a_lineage_goes_on_as_before_after_a_rollback_and_a_death(
    undisturbed: Undisturbed, dead_after_rollback: Outcome
) -> None:
    assert dead_after_rollback == undisturbed.after(450)


def test_chance_goes_on_as_before_where_a_lineage_begins_by_chance(
    home: Home, there_and_back: Images, tmp_path: Path
) -> None:
    twin = home.copy(tmp_path / "twin")
    batches = cut(there_and_back, BATCH)[:5]
    lead(home, wandering(home, at_once=True), batches)
    lead(twin, wandering(twin, at_once=True), batches, ((1, 2, 3), 4))
    assert Outcome.of(twin) == Outcome.of(home)


def test_a_lineage_begins_again_from_the_version_that_it_began_with(home: Home, inverted: Images) -> None:
    begun: list[Start] = []

    def begin(start: Start) -> Strategy:
        begun.append(start)
        return learned(home)(start)

    with open_learner(home, begin=begin) as learner:
        show(learner, part(inverted, 0, 150), "inverted")
        assert learner.champion == 2
        learner.save()
    with open_learner(home, begin=begin):
        assert begun[-1].snapshot.architecture == begun[0].snapshot.architecture


@pytest.mark.parametrize(
    "wanted",
    [
        lambda event: isinstance(event, events.DriftDetected),
        lambda event: isinstance(event, events.RetrainStarted) and event.trigger == "drift",
        lambda event: isinstance(event, events.RetrainResult) and event.outcome == "promoted",
    ],
    ids=["after a drift was noticed", "while an update begins", "after a promotion"],
)
def test_dying_in_the_middle_of_a_batch(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, wanted: Callable[[Any], bool]
) -> None:
    batches = cut(there_and_back, BATCH)[:5]
    lead(home, wandering(home), batches, (range(1, 6), 5), fatal=once(wanted))
    assert Outcome.of(home) == undisturbed.after(250)


def test_dying_in_the_middle_of_an_update(home: Home, there_and_back: Images, undisturbed: Undisturbed) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Killed

    lead(home, wandering(home), cut(there_and_back, BATCH)[:5], (range(1, 6), 5), on_step=step)
    assert steps > 3
    assert Outcome.of(home) == undisturbed.after(250)


@pytest.mark.parametrize("moved", [False, True])
def test_dying_while_a_version_is_promoted(
    home: Home, there_and_back: Images, undisturbed: Undisturbed, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between publishing the version and moving the alias to it, or right after that."""
    carry_out, fatal = home.registry.carry_out, once(lambda move: move.action == "promote")

    def interrupted(move: Move) -> Alias:
        dies = fatal(move)
        if dies and not moved:
            raise Killed
        alias = carry_out(move)
        if dies:
            raise Killed
        return alias

    monkeypatch.setattr(home.registry, "carry_out", interrupted)
    lead(home, wandering(home), cut(there_and_back, BATCH)[:5], (range(1, 6), 5))
    found, expected = Outcome.of(home), undisturbed.after(250)
    if moved:
        assert found == expected
    else:  # what was published stays behind, which nobody has ever promoted
        numbers = sorted(expected.versions)[1:]
        assert found.versions[2] == found.versions[3]
        assert [found.versions[number + 1] for number in numbers] == [expected.versions[number] for number in numbers]
        assert [(action, why) for action, _, why in found.history] == [
            (action, why) for action, _, why in expected.history
        ]


def test_the_usual_strategy_survives_a_death(usual: Life) -> None:
    """It has promoted since it was last saved, and goes on as if nothing had been."""
    with open_learner(usual.left) as learner:
        assert learner.status().labelled == 150
        assert learner.champion < usual.left.registry.resolve("production")
        for ids, images in cut(usual.stream, BATCH):
            list(learner.learn(ids, images))
    assert Outcome.of(usual.left) == Outcome.of(usual.home)


def test_a_checkpoint_keeps_buffer_and_figures(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        show(learner, part(inverted, 0, 160), "a")
        before = learner.status()
        tensors, state = learner.buffer.dump()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        learner.save()
    with open_learner(home, begin=learned(home)) as learner:
        assert learner.started().size == before.size
        assert learner.status() == before
        assert learner.fresh == 60
        found, found_state = learner.buffer.dump()
        assert found_state == state
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        # What was read after the last commit comes again, and is known.
        assert show(learner, part(inverted, 0, 160), "a") == []
        assert learner.status() == before


def test_what_was_not_saved_is_forgotten(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 40), "a")
        learner.save()
        show(learner, part(clean, 40, 80), "b")
    with open_learner(home) as learner:
        assert learner.status().labelled == 40
        show(learner, part(clean, 40, 80), "b")
        assert learner.status().labelled == 80


@pytest.mark.parametrize("change", [{"buffer_size": 300}, {"holdout_size": 50}, {"holdout_every": 9}], ids=str)
def test_a_checkpoint_of_other_sizes_is_left_aside(home: Home, clean: Images, change: dict[str, Any]) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 80), "a")
        learner.save()
    with open_learner(home, **change) as learner:
        assert learner.status().labelled == 0
        assert learner.fresh == 0


def test_a_damaged_checkpoint_is_named_and_the_lock_given_back(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 80), "a")
        learner.save()
        path = learner.file.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RegistryError, match=rf"{CHECKPOINT} cannot be read .*move it away to start afresh"):
        open_learner(home).__enter__()
    path.unlink()
    with open_learner(home) as learner:
        assert learner.status().labelled == 0


def test_another_strategy_begins_a_lineage_of_its_own(home: Home, inverted: Images) -> None:
    with open_learner(home, begin=learned(home), strategy="mixture") as learner:
        show(learner, part(inverted, 0, 140), "a")
        assert learner.champion == 2
        learner.save()
    with open_learner(home, begin=series(known(home)), strategy="replay") as learner:
        assert (learner.champion, learner.status().labelled, learner.status().shadow) == (2, 140, None)
        (result,) = of(events.RetrainResult, show(learner, part(inverted, 140, 200), "b"))
        assert result.outcome == "rejected"
        assert "no images predicted by both yet" in result.reasons[0]  # on trial, of which nothing has been seen


def test_following_relabelling_can_be_switched_on_and_off(home: Home, clean: Images) -> None:
    for start, followed in ((0, False), (20, True), (40, False)):
        with open_learner(home, follow_relabelling=followed) as learner:
            assert learner.status().labelled == start
            show(learner, part(clean, start, start + 20), f"{start}")
            learner.save()


@pytest.mark.parametrize("saved", [True, False], ids=["after the promotion", "before it"])
def test_an_alias_that_was_moved_meanwhile_is_begun_from(home: Home, inverted: Images, saved: bool) -> None:
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
        if saved:
            learner.save()
    home.registry.rollback(who="somebody", why="by hand")
    with open_learner(home, begin=same) as learner:
        status = learner.status()
        assert (learner.champion, status.labelled, status.shadow) == (1, 150 if saved else 100, None)
        assert list(learner.follow_alias()) == []
        found = live(learner, part(inverted, 100, 250), "b")
    assert promoted(found) == []
    assert home.registry.resolve("production") == 1


def test_a_hand_is_followed_while_promotions_are_made_good(home: Home, inverted: Images) -> None:
    """One that the learner has made since it was last saved, and one by hand after it was started again."""
    other = republish(home.registry)
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 3
    with open_learner(home, begin=learned(home)) as learner:
        home.registry.promote(other, who="somebody", why="by hand")
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == other
    assert home.registry.numbers() == [1, 2, 3]


def test_what_serves_is_the_champion_where_a_promotion_is_not_made_again(home: Home, inverted: Images) -> None:
    """As when settings have changed meanwhile, or the images come in another order."""
    with open_learner(home, begin=learned(home)) as learner:
        live(learner, part(inverted, 0, 100), "a")
        learner.save()
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == 2
    with open_learner(home, begin=learned(home), gate_alpha=1e-9) as learner:
        live(learner, part(inverted, 100, 150), "b")
        assert learner.champion == home.registry.resolve("production")
