"""Learners and images without labels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from helpers import Home

from cifarctl import events
from cifarctl.data import Images, synthetic
from cifarctl.learning.learner import Learner
from cifarctl.settings import OnlineSettings

ONLINE = OnlineSettings(
    update_every=100, min_examples=100, buffer_size=400, holdout_size=100, holdout_every=4, reference_size=400, steps=6,
    batch_size=32, validation_size=100, watch=200,
)  # fmt: skip


def open_learner(home: Home, **changes: Any) -> AbstractContextManager[Learner]:
    return nullcontext(
        Learner(
            home.registry,
            ONLINE.model_copy(update=changes),
            "production",
            reference=home.dataset.train.take(home.split.train[:400]),
            validation=home.dataset.train.take(home.split.validation),
        )
    )


def drawn(seed: int, count: int, *, inverted: bool) -> Images:
    found = synthetic.draw(count, seed=seed)
    return Images(255 - found.pixels, found.labels) if inverted else found


def see(learner: Learner, stream: Images) -> list[events.LearnEvent]:
    return [event for pixels in stream.pixels.split(25) for event in learner.see(pixels)]


def of(kind: type, found: list[events.LearnEvent]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]
