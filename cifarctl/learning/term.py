"""A term of leadership: the learner at work, with its data, its consumers and its label join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from cifarctl import data
from cifarctl.data import Images
from cifarctl.learning.examples import Examples
from cifarctl.learning.leadership import Leadership
from cifarctl.learning.learner import Learner
from cifarctl.learning.teaching import HeldExamples
from cifarctl.registry import Move, Registry
from cifarctl.registry.compatibility import require_compatible
from cifarctl.settings import Settings
from cifarctl.stream import clients, positions, rights
from cifarctl.stream.label_join import LabelJoin
from cifarctl.stream.predictions import prediction_reader
from cifarctl.stream.source import Source


class Stopped(Exception):
    """Raised within an update when the learner is asked to stop."""


@dataclass(frozen=True)
class Material:
    """The learner's part of the data set: a sample of the training images, and images that no training reads."""

    reference: Images
    validation: Images
    dataset: str  # its name
    classes: tuple[str, ...]
    split: str  # SHA-256 of the split

    @classmethod
    def of(cls, settings: Settings) -> Material:
        """Load the data set and split it.

        Raises:
            DataError: the data set is absent, altered or unusable.
        """
        dataset = data.load(settings.data)
        split = data.split_of(dataset, settings.data)
        generator = torch.Generator().manual_seed(settings.online.seed)
        chosen = split.train[torch.randperm(len(split.train), generator=generator)[: settings.online.reference_size]]
        train = dataset.train
        return cls(train.take(chosen), train.take(split.validation), dataset.name, dataset.classes, split.sha256)

    def check(self, learner: Learner) -> None:
        """Refuse a learner whose champion was trained on other images.

        Raises:
            DataError: says what to set.
        """
        require_compatible(
            learner.lineage.champion.manifest,
            self.dataset,
            self.classes,
            split=self.split,
            unseen="the validation images",
        )


@contextmanager
def term(
    settings: Settings,
    material: Material,
    leadership: Leadership,
    *,
    on_wait: Callable[[], None],
    on_step: Callable[[], None],
    since_ms: int | None = None,
    dry: bool = False,
    canary: bool = False,
    hold: bool = False,
) -> Iterator[Examples]:
    """Work as the leader. With `hold`, examples are held back until the caller lets the learner have them."""
    topics = clients.Topics.of(settings.kafka.topic_prefix)
    needed = {topics.images: ["Read"], topics.labels: ["Read"], topics.dead_letters: ["Write"]}
    rights.ensure_topics(settings.kafka, needed)
    rights.require(settings.kafka, {topics.predictions: ["Read"]})

    def commit(move: Move) -> None:
        on_wait()  # raises once the learner has been told to stop: it decides nothing more
        leadership.commit(move, examples.saved, source, on_wait)  # no decision comes before examples exist

    learner = Learner(
        Registry(settings.registry),
        settings.online,
        settings.serve.alias,
        reference=material.reference,
        validation=material.validation,
        epoch=leadership.take(on_wait),
        stream=leadership.stream,
        afresh=since_ms is not None,
        canary=canary,
        commit=commit,
        on_step=on_step,
    )
    material.check(learner)
    group = f"{settings.kafka.group_id}.learner"
    gaps: list[str] = []  # reported only: lost messages cannot be learned from
    wanted = [topics.images, topics.labels]
    start = None if since_ms is None else positions.since(settings.kafka, wanted, since_ms)
    with (
        closing(learner),
        Source(settings.kafka, wanted, group_id=group, on_gap=gaps.append, start=start) as source,
        prediction_reader(settings.kafka, since_s=settings.online.label_wait) as answers,
        # Beside the checkpoints, so on a disk: temporary folders are in memory on many machines.
        LabelJoin(
            wait_s=settings.online.label_wait,
            max_mb=settings.online.label_wait_mb,
            disk_mb=settings.online.label_wait_disk_mb,
            folder=learner.file.folder,
        ) as join,
    ):
        held = HeldExamples(learner, settings.online.buffer_size) if hold else None
        examples = Examples(
            learner, source, join, answers, gaps, topics, settings, since_ms=since_ms or 0, dry=dry, held=held
        )
        yield examples
