"""What a learner remembers: every field of it comes back, also from files that earlier code has written."""

from __future__ import annotations

import json
import tarfile
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from helpers import DATA, ROOT, Home, open_registry

from cifarctl import data
from cifarctl.data import synthetic
from cifarctl.learning.learner import Learner
from cifarctl.learning.state import LearnerState, Progress, Standing, WatchState
from cifarctl.online.gate import Pairs
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings

#: A registry of `small_network` and its learner in the middle of a watch, as written before `LearnerState` existed.
OLD = ROOT / "tests" / "support" / "data" / "registry-with-learner.tar.xz"
ONLINE = OnlineSettings(
    strategy="replay", buffer_size=40, holdout_size=10, reference_size=40, min_examples=20, update_every=50,
    holdout_every=4, steps=6, batch_size=32, validation_size=100, watch=200,
)  # fmt: skip


def open_learner(home: Home) -> Learner:
    reference = home.dataset.train.take(home.split.train[: ONLINE.reference_size])
    validation = home.dataset.train.take(home.split.validation)
    return Learner(home.registry, ONLINE, "production", reference=reference, validation=validation)


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 7
    if isinstance(value, Pairs):
        return value + Pairs(1, 2, 3, 4)
    if isinstance(value, dict):
        return {**value, "more": 7}
    if isinstance(value, list):
        return [*value, "more"]
    return {"float32": "bfloat16", None: "float32"}[value]


def every_field_changed(state: Any, *, but: tuple[str, ...] = ()) -> Any:
    names = [each.name for each in fields(state) if each.name not in but]
    return replace(state, **{name: changed(getattr(state, name)) for name in names})


def test_every_field_comes_back_from_json() -> None:
    state = LearnerState(
        strategy=["production", "replay", False], champion=3, generation=4, moves=5, arrived=6, rate=0.5,
        concept={"began": 1}, lineage={"steps": 2}, snapshot={"architecture": "net", "arguments": {}},
        watch=every_field_changed(WatchState(2)), progress=every_field_changed(Progress()),
        standing=every_field_changed(Standing(1)),
    )  # fmt: skip
    again = every_field_changed(state, but=("watch", "progress", "standing"))
    for one in (state, again, replace(state, watch=None, snapshot=None)):
        assert LearnerState.of_json(json.loads(json.dumps(one.to_json()))) == one


def test_every_field_comes_back_from_a_checkpoint(home: Home) -> None:
    images = synthetic.draw(50, seed=1)
    with closing(open_learner(home)) as learner:
        list(learner.learn([f"image-{number}" for number in range(50)], images, updates=False))
        progress = every_field_changed(learner.progress)
        learner.progress.take_over(progress)
        standing = every_field_changed(learner.lineage.standing, but=("began",))  # names a version
        learner.lineage.standing = standing
        learner.save(progress.reading)
    with closing(open_learner(home)) as learner:
        assert (learner.progress, learner.lineage.standing) == (progress, standing)
        assert learner.progress.reading == progress.reading
        assert (learner.seen, learner.buffer.labelled) == (50, 50)


def test_what_earlier_code_has_written_is_gone_on_from(tmp_path: Path) -> None:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path / "registry", filter="data")
    registry = open_registry(tmp_path / "registry", trusted_models="small_network:Small")
    assert registry.numbers() == [1, 2, 3]
    assert not registry.faults()
    for number in registry.numbers():
        assert not registry.verify(number)
        assert load(registry, number).manifest.version == number
    dataset = data.load(DATA)
    home = Home(registry, dataset, data.split_of(dataset, DATA))
    with closing(open_learner(home)) as learner:
        assert (learner.champion, learner.buffer.labelled, learner.fresh) == (3, 200, 0)
        assert learner.progress.reading == {"x": 1}
        shadow = learner.status().shadow
        assert shadow is not None
        assert (shadow.version, shadow.images) == (1, 25)
        images = synthetic.draw(100, seed=12)
        inverted = replace(images, pixels=255 - images.pixels)
        found = list(learner.learn([f"later-{number}" for number in range(100)], inverted))
        assert learner.updates == 2
        assert found
    assert torch.isfinite(next(iter(load(registry, learner.champion).model.parameters()))).all()
