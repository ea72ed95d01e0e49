"""The learner without a broker: what it learns from, and what it tells."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import DATA, Home, tagged, tags
from learners import (
    ONLINE,
    accuracy,
    joined,
    learned,
    live,
    moves,
    of,
    open_learner,
    part,
    promoted,
    same,
    show,
    spoiled,
    until,
)
from torch import nn

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning.learner import GRID
from cifarctl.learning.term import Material
from cifarctl.online.concept import MIN_LABELLED
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Begin, Continual
from cifarctl.settings import OnlineSettings, Settings

# --- images


def shuffled(count: int) -> list[int]:
    """The first `count` numbers, for `tagged`, in no order in which the images would seem to drift."""
    numbers: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return numbers


# --- models, and lineages of them


def watching(lessons: list[Lesson]) -> Begin:
    """Lineages that learn nothing, and whose lessons are written down."""

    def learn(model: nn.Module, lesson: Lesson) -> nn.Module:
        lessons.append(lesson)
        return copy.deepcopy(model)

    return lambda start: Continual(start, learn)


# --- learning


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


def test_lessons_never_show_held_out_or_validation_images(home: Home) -> None:
    """What a learner is given of the data set is the subject of test_term.py; of that lessons show the reference."""
    material = Material.of(Settings(data=DATA, online=OnlineSettings(reference_size=ONLINE.reference_size)))
    lessons: list[Lesson] = []
    numbers = shuffled(500)
    with open_learner(home, material=material, begin=watching(lessons), buffer_size=100) as learner:
        live(learner, tagged(numbers), "tagged")
    held_out = set(numbers[3::4])
    assert len(lessons) == 5
    for lesson in lessons:
        shown = set(tags(lesson.recent)) | set(tags(lesson.reservoir))
        assert shown
        assert not shown & held_out
        assert torch.equal(lesson.reference.pixels, material.reference.pixels)


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
