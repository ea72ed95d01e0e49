"""The contestants of a prequential evaluation: each predicts the stream's images before it learns from them."""

from __future__ import annotations

import copy
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch.nn import functional
from typing_extensions import override

from cifarctl import events
from cifarctl.data import Images, Scenario, augment
from cifarctl.learning.learner import Learner
from cifarctl.learning.lineage import start_of
from cifarctl.learning.trial import JUDGED
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import Predictor, autocast, choose_precision
from cifarctl.models.preprocess import normalise
from cifarctl.online.buffer import ReplayBuffer, Ring
from cifarctl.online.concept import ARRIVED
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import strategy
from cifarctl.registry import Description, Registry
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.registry.publishing import publish
from cifarctl.settings import OnlineSettings, RegistrySettings

TUTORIAL_BUFFER = 500  # labelled images kept, and between two updates
TUTORIAL_EPOCHS = 5
TUTORIAL_RATE = 1e-3
ORACLE_EPOCHS = 16
ORACLE_RATE = 3e-3
ORACLE_BATCH = 256
ORACLE_BLOCK = 250  # training images shown under as many consecutive positions of the stream

#: (pixels (B, 3, 32, 32) uint8, position of the first in the stream) -> probabilities (B, classes) float32
Predicts: TypeAlias = Callable[[torch.Tensor, int], torch.Tensor]


class Contestant(Protocol):
    """A way to deal with a drifting stream.

    `serving` makes the current predictions. It is replaced, never modified, so that an update can take effect later.
    `see` and `learn` work while they are iterated over, and yield wherever `serving` may have been replaced.
    """

    name: str
    serving: Predicts
    updates: int
    promotions: int
    rollbacks: int
    drifts: int  # drifts it has detected

    def see(self, pixels: torch.Tensor) -> Iterator[None]:
        """Take in images (B, 3, 32, 32) that have just been predicted; their labels may never come."""

    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        """Take in the labels (B,) of images that have been seen, and make the updates that are due.

        An id is the image's position in the stream.
        """

    def settle(self) -> Iterator[None]:
        """Make the updates that waited until everything that had arrived was taken in."""


class _Contestant(Contestant):
    def __init__(self, name: str, serving: Predicts) -> None:
        self.name, self.serving = name, serving
        self.updates = self.promotions = self.rollbacks = self.drifts = 0

    @override
    def see(self, pixels: torch.Tensor) -> Iterator[None]:
        """Ignores images without labels."""
        return iter(())

    @override
    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        """Learns nothing."""
        return iter(())

    @override
    def settle(self) -> Iterator[None]:
        """Nothing waits."""
        return iter(())


def frozen(base: LoadedModel) -> Contestant:
    """The version left alone."""
    return _Contestant("frozen", _whenever(base.predictor()))


class Tutorial(_Contestant):
    """The tutorial's consumer: five epochs over the last labelled images, one image a step, without any check."""

    def __init__(self, base: LoadedModel, seed: int) -> None:
        super().__init__("tutorial", _whenever(base.predictor()))
        self._model = copy.deepcopy(base.model)
        self._normalisation = base.manifest.normalisation
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=TUTORIAL_RATE)
        self._buffer: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=TUTORIAL_BUFFER)
        self._generator = torch.Generator().manual_seed(seed)
        self._fresh = 0

    @override
    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        for pixels, label in zip(images.pixels, images.labels, strict=True):
            self._buffer.append((pixels, label))
            self._fresh += 1
            if self._fresh == TUTORIAL_BUFFER:
                self._fresh = 0
                self._update()
                yield

    def _update(self) -> None:
        mean, std = self._normalisation.mean, self._normalisation.std
        self._model.train()
        for _ in range(TUTORIAL_EPOCHS):
            for index in torch.randperm(len(self._buffer), generator=self._generator).tolist():
                pixels, label = self._buffer[index]
                loss = functional.cross_entropy(self._model(normalise(pixels[None], mean, std)), label[None])
                self._optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimiser.step()
        self.updates += 1
        self.serving = _whenever(Predictor(copy.deepcopy(self._model), mean, std))


class Ungated(_Contestant):
    """A strategy by itself: every snapshot serves at once, without a gate, a drift detector or a rollback."""

    def __init__(self, name: str, base: LoadedModel, settings: OnlineSettings, reference: Images) -> None:
        super().__init__(name, _whenever(base.predictor()))
        manifest = base.manifest
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._lineage = strategy(name)(start_of(base, self._generator, settings))
        self._settings, self._reference, self._normalisation = settings, reference, manifest.normalisation
        self._buffer = ReplayBuffer(
            settings.buffer_size,
            len(manifest.classes),
            holdout_size=1,
            holdout_every=1_000_000_000,  # nothing is judged, so nothing is held out
            generator=self._generator,
        )
        self._arrived = Ring(ARRIVED)
        self._precision = choose_precision("auto", base.model, torch.device("cpu"), settings.batch_size, train=True)
        self._fresh = 0

    @override
    def see(self, pixels: torch.Tensor) -> Iterator[None]:
        for image in pixels:
            self._arrived.add(image, -1)
        return iter(())

    @override
    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        self._lineage.observe(images)
        for image_id, pixels, label in zip(ids, images.pixels, images.labels.tolist(), strict=True):
            self._fresh += self._buffer.add(image_id, pixels, label)
        if self._fresh >= self._settings.update_every:
            self._fresh -= self._settings.update_every
            self._update()
            yield

    def _update(self) -> None:
        settings, normalisation = self._settings, self._normalisation
        lesson = Lesson(
            recent=self._buffer.recent.newest(JUDGED),
            new=self._buffer.recent.newest(settings.update_every),
            reservoir=self._buffer.reservoir.images(),
            reference=self._reference,
            arrived=self._arrived.newest(ARRIVED).pixels,
            apart=self._reference.take(torch.arange(0)),
            drifted=False,
            moved=False,
            scarce=False,
            mean=normalisation.mean,
            std=normalisation.std,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            precision=self._precision,
            generator=self._generator,
            on_step=lambda: None,
        )
        snapshot = self._lineage.propose(lesson)
        self.updates += 1
        self.serving = _whenever(Predictor(snapshot.model, normalisation.mean, normalisation.std))


class Gated(_Contestant):
    """The learner of `serve --online`, in a registry of its own."""

    def __init__(self, learner: Learner, registry: Registry) -> None:
        self._learner, self._registry = learner, registry
        self._version = learner.champion
        super().__init__("online", _whenever(load(registry, self._version).predictor()))
        self._behind = False  # more arrived during an update than the next one would wait for

    @override
    def see(self, pixels: torch.Tensor) -> Iterator[None]:
        self._behind = len(pixels) > self._learner.settings.update_every
        return self._hear(self._learner.see(pixels, updates=not self._behind))

    @override
    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        self._behind = self._behind or len(ids) > self._learner.settings.update_every
        numbers = list(map(int, ids))
        return self._hear(self._learner.learn(ids, images, numbers=numbers, updates=not self._behind))

    @override
    def settle(self) -> Iterator[None]:
        return self._hear(self._learner.catch_up() if self._behind else iter(()))

    def _hear(self, told: Iterator[events.LearnEvent]) -> Iterator[None]:
        for event in told:
            if isinstance(event, events.DriftDetected):
                self.drifts += 1
            elif isinstance(event, events.RetrainStarted):
                self.updates += 1
            elif isinstance(event, events.RetrainResult):
                self.promotions += event.outcome == "promoted"
            elif isinstance(event, events.RolledBack):
                self.rollbacks += 1
            if self._learner.champion != self._version:
                self._version = self._learner.champion
                self.serving = _whenever(load(self._registry, self._version).predictor())
                yield


@contextmanager
def gated(base: LoadedModel, settings: OnlineSettings, reference: Images, validation: Images) -> Iterator[Contestant]:
    """A learner with these settings, in a temporary registry that holds the base version."""
    with tempfile.TemporaryDirectory(prefix="cifarctl-eval-") as folder:
        manifest = base.manifest
        own = own_code(manifest.model, manifest.arguments)  # has been run already
        registry = Registry(RegistrySettings(dir=Path(folder)).trusting(*own))
        description = Description.like(manifest, settings={}, parent=None, origin="import")
        first = publish(registry, copy.deepcopy(base.model), description)
        registry.promote(first.version, alias="production", who="eval", why="the base version")
        learner = Learner(registry, settings, "production", reference=reference, validation=validation)
        yield Gated(learner, registry)


def oracle(base: LoadedModel, train: Images, scenario: Scenario, count: int, seed: int) -> Contestant:
    """The ceiling: `base` after some epochs over the training images `train` under every change the stream will show.

    It also knows what cannot be known beforehand: the class frequencies where they are uneven (its probabilities are
    weighted by them: Saerens et al. 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities), and
    how labels are exchanged.
    """
    model, normalisation = copy.deepcopy(base.model), base.manifest.normalisation
    classes = len(base.manifest.classes)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=ORACLE_RATE, weight_decay=1e-2)
    batches = max(1, len(train) // ORACLE_BATCH)
    steps = ORACLE_EPOCHS * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, ORACLE_RATE, total_steps=steps + 1, pct_start=0.1)
    precision = choose_precision("auto", model, torch.device("cpu"), ORACLE_BATCH, train=True)
    model.train()
    for epoch in range(ORACLE_EPOCHS):
        transformed = _transformed(train, scenario, count, seed + 1 + epoch, generator)
        for index in torch.split(torch.randperm(len(transformed), generator=generator), ORACLE_BATCH)[:batches]:
            batch = transformed.take(index)
            pixels = augment(batch.pixels, generator, crop_padding=2, flip=True)
            with autocast(torch.device("cpu"), precision):
                logits = model(normalise(pixels, normalisation.mean, normalisation.std))
            optimiser.zero_grad(set_to_none=True)
            functional.cross_entropy(logits.float(), batch.labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    predictor = Predictor(model.eval(), normalisation.mean, normalisation.std)

    def predict(pixels: torch.Tensor, start: int) -> torch.Tensor:
        probabilities = predictor(pixels).clone()
        for position, row in enumerate(probabilities, start):
            weights = scenario.weights(position, classes)
            if weights is not None:
                row *= weights
            renamed = torch.cat([scenario.concept(torch.tensor([label]), position) for label in range(classes)])
            row[renamed] = row.clone()
        return probabilities

    return _Contestant("oracle", predict if scenario.uses("prior", "classes", "relabel") else _whenever(predictor))


def _transformed(train: Images, scenario: Scenario, count: int, seed: int, generator: torch.Generator) -> Images:
    """The training images as they would look at random positions of the stream."""
    order = torch.randperm(len(train), generator=generator)
    blocks = []
    for index in torch.split(order, ORACLE_BLOCK):
        start = int(torch.randint(max(1, count - len(index) + 1), (1,), generator=generator))
        blocks.append(scenario.apply(train.pixels[index], start, seed))
    return Images(torch.cat(blocks), train.labels[order])


def _whenever(predictor: Predictor) -> Predicts:
    """A predictor that ignores positions."""
    return lambda pixels, _start: predictor(pixels)
