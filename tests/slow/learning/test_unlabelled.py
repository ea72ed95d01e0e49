"""Learners that learn from images without labels, over whole lives."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Home, train_home
from unlabelled import ONLINE, drawn, of, open_learner, see

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning import lineage as module
from cifarctl.learning.schedule import CALM_AFTER
from cifarctl.learning.scored_model import ScoredModel
from cifarctl.online.concept import MIN_LABELLED
from cifarctl.registry.loading import load
from cifarctl.training.metrics import evaluate

# --- estimates


def test_estimates_compute_in_the_arithmetic_that_is_asked_for_and_counts_in_float32(home: Home) -> None:
    predictor = load(home.registry, 1).predictor()
    types: set[torch.dtype] = set()
    predictor.model.register_forward_hook(lambda _module, _inputs, logits: types.add(logits.dtype))
    known, window = drawn(11, 60, inverted=False), drawn(12, 60, inverted=True).pixels
    judged = ScoredModel(predictor, known, 10)
    alike = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        types.clear()
        assert judged.differs(judged, window, precision) == 0
        assert judged.likely(window, alike, known.labels, precision, follows=False).shape == (60,)
        assert types == {dtype}
    judged.right(known)
    assert types == {torch.float32}


# --- the learner


def accuracy(home: Home, stream: Images) -> float:
    return evaluate(load(home.registry, home.registry.resolve("production")).predictor(), stream).accuracy


def test_a_drift_and_its_end_are_followed_without_a_single_label(home: Home) -> None:
    clean, inverted, after = (
        drawn(11, 200, inverted=False),
        drawn(12, 300, inverted=True),
        drawn(13, 300, inverted=True),
    )
    before, at_first = accuracy(home, after), accuracy(home, clean)
    with open_learner(home) as learner:
        assert see(learner, clean) == []
        found = see(learner, inverted)
        assert learner.status().labelled == 0
        assert accuracy(home, after) > before + 0.2
        see(learner, drawn(15, 300, inverted=False))
        assert accuracy(home, clean) > at_first - 0.05
    (drift, *_) = of(events.DriftDetected, found)
    assert (drift.detector, drift.error_before, drift.error_after) == ("inputs", None, None)
    assert abs(drift.at - drift.since - 200) <= 25
    (first, *_) = (result for result in of(events.RetrainResult, found) if result.outcome == "promoted")
    assert "estimated without labels" in first.reasons[0]


def test_snapshots_average_over_what_their_first_version_does(tmp_path: Path) -> None:
    home = train_home(tmp_path, model="net-bn", tta="flip", epochs=2)
    inverted = drawn(12, 200, inverted=True)
    before = accuracy(home, inverted)
    with open_learner(home) as learner:
        see(learner, drawn(11, 200, inverted=False))
        see(learner, inverted)
        served = home.registry.manifest(learner.champion)
    assert served.version > 1
    assert served.arguments["arguments"] == home.registry.manifest(1).arguments == {"classes": 10, "tta": "flip"}
    predictor = load(home.registry, served.version).predictor()
    torch.testing.assert_close(predictor(inverted.pixels), predictor(inverted.pixels.flip(3)))
    assert accuracy(home, inverted) > before + 0.2


def test_where_a_drift_is_over_the_first_version_answers_alone(home: Home) -> None:
    usual = home.dataset.train.take(home.split.stream)
    with open_learner(home) as learner:
        see(learner, usual.take(torch.arange(200)))
        see(learner, drawn(12, 300, inverted=True))
        during = load(home.registry, learner.champion)
        see(learner, usual.take(torch.arange(200, 400)))
        after = load(home.registry, learner.champion)
    assert (during.manifest.version > 1, after.manifest.version > during.manifest.version) == (True, True)
    first, now = (found.predictor()(usual.pixels) for found in (load(home.registry, 1), after))
    torch.testing.assert_close(now, first)


def test_where_nothing_drifts_any_more_updates_without_labels_become_rarer(home: Home) -> None:
    after = drawn(12, CALM_AFTER + 300, inverted=True)
    with open_learner(home, steps=1) as learner:
        see(learner, drawn(11, 200, inverted=False))
        began = [
            learner.seen - 200
            for pixels in after.pixels.split(25)
            for _ in of(events.RetrainStarted, list(learner.see(pixels)))
        ]
    every = ONLINE.update_every
    gaps = {later: later - earlier for earlier, later in itertools.pairwise(began)}
    assert {gap for later, gap in gaps.items() if later > CALM_AFTER + 50} == {2 * every}
    assert max(gap for later, gap in gaps.items() if later < CALM_AFTER - 50) == every


def test_labels_of_images_from_before_the_drift_say_nothing_of_it(home: Home) -> None:
    """They come late: the images have long been others."""
    clean, inverted = drawn(11, 200, inverted=False), drawn(12, 300, inverted=True)
    with open_learner(home) as learner:
        see(learner, clean)
        see(learner, inverted)
        learned_at = home.registry.resolve("production")
        assert learned_at > 1
        ids = [f"late-{number}" for number in range(200)]
        found = list(learner.learn(ids, clean, numbers=range(200)))
        assert (of(events.DriftDetected, found), of(events.RolledBack, found)) == ([], [])
        status = learner.status()
        assert (status.labelled, status.accuracy) == (200, None)
        more = [f"prompt-{number}" for number in range(MIN_LABELLED)]
        list(
            learner.learn(more, inverted.take(torch.arange(200, 200 + len(more))), numbers=range(400, 400 + len(more)))
        )
        assert learner.status().accuracy is not None


def test_it_does_not_matter_how_labelled_images_are_cut(home: Home, tmp_path: Any) -> None:
    clean, darker = drawn(11, 200, inverted=False), drawn(12, 150, inverted=False)
    stream = Images(torch.cat([clean.pixels, darker.pixels // 2]), torch.cat([clean.labels, darker.labels]))
    found = []
    for size in (7, 25, 350):
        own = home.copy(tmp_path / str(size))
        with open_learner(own, strategy="replay", steps=1) as learner:
            told = [
                event
                for index in torch.arange(len(stream)).split(size)
                for event in learner.learn([str(number) for number in index.tolist()], stream.take(index))
            ]
            drifts = of(events.DriftDetected, told)
            assert drifts
            found.append((drifts, learner.status()))
    assert found[0] == found[1] == found[2]


def test_a_death_changes_nothing(home: Home, tmp_path: Any) -> None:
    stream = [drawn(11, 200, inverted=False), drawn(12, 300, inverted=True)]
    twin = home.copy(tmp_path / "twin")
    with open_learner(home) as learner:
        for part in stream:
            see(learner, part)
    with open_learner(twin) as learner:
        see(learner, stream[0])
        see(learner, stream[1].take(torch.arange(150)))
        learner.save({"numbers": {"waiting": 349}})
        see(learner, stream[1].take(torch.arange(150, 220)))  # forgotten
    with open_learner(twin) as learner:
        assert learner.progress.reading == {"numbers": {"waiting": 349}}
        assert learner.seen == 350
        see(learner, stream[1].take(torch.arange(150, 300)))
    histories = [
        [(move.action, move.to_version, move.why, move.at) for move in one.registry.history("production")]
        for one in (home, twin)
    ]
    assert histories[0] == histories[1]


def test_a_learner_that_goes_on_computes_as_the_one_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faster was measured once: measured anew it may come out otherwise, and so may what is decided."""
    measured: list[str] = []
    monkeypatch.setattr(module, "choose_precision", lambda *_, **__: measured.append("") or "float32")
    stream = drawn(11, 200, inverted=False)
    ids = [str(number) for number in range(len(stream))]
    with open_learner(home, steps=1) as learner:
        list(learner.learn(ids, stream))
        assert (learner.updates, measured) == (2, [""])
        learner.save()
    with open_learner(home, steps=1) as learner:
        list(learner.update("by hand"))
    assert measured == [""]
