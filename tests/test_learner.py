"""The learner without a broker: what it promotes, what it refuses, what it takes back, and what survives a restart."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Home, republish, spoil, tagged, tags
from torch import nn

from cifarctl import events, models
from cifarctl.data import Images, synthetic
from cifarctl.errors import RegistryBusy, RegistryError, SettingsError, VersionNotFound
from cifarctl.flows import learner as module
from cifarctl.flows.evaluate import evaluate
from cifarctl.flows.learner import CHECKPOINT, FEWEST_AFTER_DRIFT, Learner
from cifarctl.flows.publish import publish
from cifarctl.models.predictor import Predictor
from cifarctl.online.fit import Lesson
from cifarctl.online.gate import Decision
from cifarctl.online.strategies import Strategy, names, strategy
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings

ONLINE = OnlineSettings(
    update_every=400,
    min_examples=100,
    buffer_size=800,
    holdout_size=200,
    holdout_every=4,
    reference_size=700,
    steps=25,
    batch_size=64,
    learning_rate=2e-3,
    learning_rate_max=4e-3,
    watch=100,
)
BATCH = 40


@pytest.fixture(autouse=True)
def _same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which arithmetic is faster is measured, and may come out otherwise each time."""
    monkeypatch.setattr(module, "choose_precision", lambda *_, **__: "float32")


@pytest.fixture(scope="module")
def clean() -> Images:
    return synthetic.draw(800, seed=11)


@pytest.fixture(scope="module")
def inverted() -> Images:
    images = synthetic.draw(1000, seed=12)
    return Images(255 - images.pixels, images.labels)


def open_learner(
    home: Home, /, alias: str = "production", *, challenger: Strategy | None = None, **changes: Any
) -> Learner:
    """A learner with other settings, a clock or step of the test's, or with challengers from a strategy of its own."""
    own = {name: changes.pop(name) for name in ("on_step", "clock") if name in changes}
    with pytest.MonkeyPatch.context() as patch:
        if challenger is not None:
            patch.setattr(module, "strategy", lambda _: challenger)
        return Learner(
            home.registry,
            ONLINE.model_copy(update=changes),
            alias,
            reference=home.dataset.train.take(home.split.train[: ONLINE.reference_size]),
            validation=home.dataset.train.take(home.split.validation),
            **own,
        )


def part(images: Images, start: int, end: int) -> Images:
    return images.take(torch.arange(start, end))


def show(learner: Learner, images: Images, name: str) -> list[events.LearnEvent]:
    """Let the learner see images, without updates."""
    return list(learner.observe([f"{name}-{number}" for number in range(len(images))], images))


def live(learner: Learner, images: Images, name: str) -> Iterator[events.LearnEvent]:
    """The learner's life: batches of images, and the updates that they make due."""
    for start in range(0, len(images), BATCH):
        yield from show(learner, part(images, start, start + BATCH), f"{name}-{start}")
        yield from learner.follow_alias()
        if trigger := learner.due():
            yield from learner.update(trigger)


def of(kind: type, found: list[Any]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


def accuracy(home: Home, version: int, images: Images) -> float:
    loaded = load(home.registry, version)
    normalisation = loaded.manifest.normalisation
    return evaluate(Predictor(loaded.model, normalisation.mean, normalisation.std), images).accuracy


def same(champion: nn.Module, lesson: Lesson) -> nn.Module:
    """A strategy that learns nothing, and takes no time for it."""
    return copy.deepcopy(champion)


def spoiled(champion: nn.Module, lesson: Lesson) -> nn.Module:
    """A strategy that makes things worse."""
    model = copy.deepcopy(champion)
    with torch.no_grad():
        spoil(model)
    return model


def wave_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that lets everything pass, to see what happens behind it."""
    monkeypatch.setattr(module, "decide", lambda *_, **__: Decision(True, ("waved through",)))


# --- learning


def test_a_drift_is_noticed_learned_and_promoted(home: Home, clean: Images, inverted: Images) -> None:
    fresh = part(inverted, 600, 1000)
    before = accuracy(home, 1, fresh)
    with open_learner(home) as learner:
        assert of(events.DriftDetected, list(live(learner, part(clean, 0, 200), "clean"))) == []
        found = list(live(learner, part(inverted, 0, 600), "inverted"))
        champion = learner.champion
    (drift, *_) = of(events.DriftDetected, found)
    assert 200 < drift.at <= 300
    assert drift.error_after > drift.error_before + 0.3
    assert abs(drift.at - drift.since - 200) <= 30
    assert of(events.RetrainStarted, found)[0].trigger == "drift"
    assert of(events.RateChanged, found)[0].new == ONLINE.learning_rate_max
    promoted = [event for event in of(events.RetrainResult, found) if event.outcome == "promoted"]
    assert promoted
    assert promoted[0].champion["version"] == 1
    assert promoted[0].challenger["version"] == 2
    assert promoted[0].challenger["stream_accuracy"] > promoted[0].champion["stream_accuracy"]
    assert "the inputs have moved away from the validation images" in promoted[0].reasons
    # And it was worth it, on images that nobody has seen.
    assert accuracy(home, champion, fresh) > before + 0.2
    assert home.registry.resolve("production") == champion


def test_a_promoted_version_tells_where_it_comes_from(home: Home, clean: Images, monkeypatch: Any) -> None:
    wave_through(monkeypatch)
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 200), "clean")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
    first, second = home.registry.manifest(1), home.registry.manifest(2)
    assert (second.parent, second.origin, second.model) == (1, "learner", first.model)
    assert second.split == first.split
    assert second.normalisation == first.normalisation
    assert second.metrics["validation_accuracy"] == result.challenger["validation_accuracy"]
    assert second.metrics["stream_accuracy"] == result.challenger["stream_accuracy"]
    assert second.metrics["base_validation_accuracy"] == pytest.approx(first.metrics["validation_accuracy"])
    (move,) = home.registry.history("production")[1:]
    assert (move.action, move.who, move.from_version, move.to_version) == ("promote", "learner", 1, 2)
    assert move.why == "waved through"


def test_nothing_is_learned_from_labels_that_mean_nothing(home: Home, clean: Images) -> None:
    labels = torch.randint(10, (600,), generator=torch.Generator().manual_seed(0))
    noise = Images(clean.pixels[:600], labels)
    with open_learner(home) as learner:
        found = list(live(learner, noise, "noise"))
    results = of(events.RetrainResult, found)
    assert results
    assert {result.outcome for result in results} == {"rejected"}
    assert home.registry.resolve("production") == 1
    assert home.registry.numbers() == [1]  # what is refused is not published
    history = home.registry.history("production")
    assert [move.action for move in history] == ["promote"] + ["reject"] * len(results)
    assert history[-1].why == "; ".join(results[-1].reasons)


@pytest.mark.parametrize("value", [0.0, float("nan")], ids=["zero", "nan"])
def test_a_useless_challenger_never_comes_through(home: Home, inverted: Images, value: float) -> None:
    """Not even where the champion itself is nearly useless."""

    def broken(champion: nn.Module, lesson: Lesson) -> nn.Module:
        model = copy.deepcopy(champion)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        return model

    with open_learner(home, challenger=broken) as learner:
        show(learner, part(inverted, 0, 400), "inverted")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
    assert result.outcome == "rejected"
    assert result.challenger["version"] is None
    assert home.registry.resolve("production") == 1


def test_what_would_forget_the_validation_images_is_refused(home: Home, clean: Images) -> None:
    """Labels that are all exchanged, over inputs that have not moved: better on the stream, but the guard says no."""
    exchanged = Images(clean.pixels[:600], (clean.labels[:600] + 1) % 10)
    with open_learner(home, strategy="finetune", steps=40) as learner:
        show(learner, exchanged, "exchanged")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
    assert result.challenger["stream_accuracy"] > result.champion["stream_accuracy"] + 0.1
    assert result.outcome == "rejected"
    assert any("below the floor" in reason and "not below" not in reason for reason in result.reasons)


def test_challengers_never_see_held_out_or_validation_images(home: Home) -> None:
    lessons: list[Lesson] = []

    def watching(champion: nn.Module, lesson: Lesson) -> nn.Module:
        lessons.append(lesson)
        return copy.deepcopy(champion)

    with open_learner(home, challenger=watching, buffer_size=100) as learner:
        for start in range(0, 600, 200):
            show(learner, tagged(list(range(start, start + 200))), f"tagged-{start}")
            list(learner.update("by hand"))
    held_out = set(range(3, 600, 4))
    assert len(lessons) == 3
    for lesson in lessons:
        shown = set(tags(lesson.recent)) | set(tags(lesson.reservoir))
        assert shown
        assert not shown & held_out
    train = home.dataset.train.take(home.split.train).pixels.flatten(1)
    validation = home.dataset.train.take(home.split.validation).pixels.flatten(1).long().sum(dim=1)
    reference = lessons[0].reference.pixels.flatten(1).long().sum(dim=1)
    assert set(reference.tolist()) <= set(train.long().sum(dim=1).tolist())
    assert not set(reference.tolist()) >= set(validation.tolist())


def test_after_a_drift_recent_means_since_the_drift(home: Home, clean: Images, inverted: Images) -> None:
    lessons: list[Lesson] = []

    def watching(champion: nn.Module, lesson: Lesson) -> nn.Module:
        lessons.append(lesson)
        return copy.deepcopy(champion)

    with open_learner(home, challenger=watching) as learner:
        found = show(learner, part(clean, 0, 200), "clean")
        found += list(live(learner, part(inverted, 0, 200), "inverted"))
    (drift, *_) = of(events.DriftDetected, found)
    assert lessons[0].learning_rate == ONLINE.learning_rate_max
    expected = (240 + BATCH * ((drift.at - 201) // BATCH) - (drift.at - drift.since)) * 3 // 4
    assert abs(len(lessons[0].recent) - expected) <= 2
    dark = inverted.pixels[:200].flatten(1).long().sum(dim=1).tolist()
    latest = lessons[0].recent.pixels.flatten(1).long().sum(dim=1).tolist()
    assert latest[-1] in dark


def test_an_image_is_learned_from_once(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 100), "clean")
        before = learner.status()
        show(learner, part(clean, 0, 100), "clean")
        assert learner.status() == before
        assert learner.fresh == 100


def test_observing_nothing(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        assert show(learner, part(clean, 0, 0), "none") == []
        assert learner.status().accuracy is None


def test_the_status_tells_where_the_learner_stands(home: Home, clean: Images) -> None:
    images = part(clean, 0, 120)
    with open_learner(home) as learner:
        started = learner.started()
        show(learner, images, "clean")
        status = learner.status()
    assert (started.version, started.strategy, started.size, started.capacity) == (1, "replay", 0, 800)
    assert (status.labelled, status.holdout, status.size, status.capacity) == (120, 30, 90, 800)
    kept = torch.ones(120, dtype=torch.bool)
    kept[3::4] = False
    assert status.class_counts == tuple(torch.bincount(images.labels[kept], minlength=10).tolist())
    assert status.accuracy == pytest.approx(accuracy(home, 1, images))
    assert (status.drift, status.until_update, status.learning_rate) == ("calm", 280, ONLINE.learning_rate)


def test_an_update_that_brings_nothing_lowers_the_learning_rate(home: Home, clean: Images) -> None:
    with open_learner(home, challenger=same) as learner:
        show(learner, part(clean, 0, 120), "clean")
        found = list(learner.update("by hand"))
        (change,) = of(events.RateChanged, found)
        assert (change.old, change.new) == (ONLINE.learning_rate, learner.status().learning_rate)
        assert change.new < change.old


# --- when


def test_an_update_is_due_by_count(home: Home, clean: Images) -> None:
    with open_learner(home, challenger=same, update_every=150, min_examples=100) as learner:
        show(learner, part(clean, 0, 149), "a")
        assert learner.due() is None
        show(learner, part(clean, 149, 150), "b")
        assert learner.due() == "150 labelled images"
        list(learner.update("150 labelled images"))
        assert learner.due() is None
        assert learner.fresh == 0


def test_no_update_before_there_are_enough_examples(home: Home, clean: Images) -> None:
    with open_learner(home, update_every=10, min_examples=100) as learner:
        show(learner, part(clean, 0, 99), "a")
        assert learner.due() is None
        result = learner.not_enough()
        assert (result.outcome, result.examples, result.challenger) == ("not_enough_data", 99, {})
        assert result.reasons == ["99 labelled examples since the last update, 100 are wanted"]
        show(learner, part(clean, 99, 100), "b")
        assert learner.due() == "100 labelled images"


def test_an_update_is_due_by_time(home: Home, clean: Images) -> None:
    now = 0.0
    with open_learner(home, challenger=same, update_every=10_000, update_interval=300.0, clock=lambda: now) as learner:
        show(learner, part(clean, 0, 120), "a")
        now = 299.0
        assert learner.due() is None
        now = 300.0
        assert learner.due() == "300 s"
        list(learner.update("300 s"))
        now = 700.0
        assert learner.due() is None  # no new examples to learn from
        show(learner, part(clean, 120, 240), "b")
        assert learner.due() == "400 s"


def test_a_drift_makes_updates_come_more_often(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, challenger=same) as learner:
        show(learner, part(clean, 0, 200), "clean")
        start = 0
        while not show(learner, part(inverted, start, start + 8), f"inverted-{start}"):
            assert learner.due() is None
            start += 8
            assert start < 100
        while learner.due() is None:
            start += 8
            show(learner, part(inverted, start, start + 8), f"inverted-{start}")
            assert start < 150
        assert learner.due() == "drift"
        assert start + 8 >= FEWEST_AFTER_DRIFT - 20
        assert learner.status().drift == "drift"
        list(learner.update("drift"))
        assert learner.due() is None
        assert learner.status().until_update == ONLINE.update_every // 4


# --- the alias and other hands


def test_a_version_promoted_by_hand_becomes_the_champion(home: Home, clean: Images) -> None:
    other = republish(home.registry)
    with open_learner(home, challenger=same) as learner:
        assert list(learner.follow_alias()) == []
        home.registry.promote(other, who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]
        assert list(learner.follow_alias()) == []
        assert learner.champion == other
        home.registry.rollback(who="somebody", why="by hand")
        assert list(learner.follow_alias()) == [events.ChampionChanged(other, 1)]
        show(learner, part(clean, 0, 120), "clean")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
        assert result.champion["version"] == 1


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


def test_whoever_moves_the_alias_during_an_update_wins(home: Home, clean: Images, monkeypatch: Any) -> None:
    wave_through(monkeypatch)
    other = republish(home.registry)

    def interfere() -> None:
        home.registry.promote(other, who="somebody", why="by hand")

    with open_learner(home, on_step=interfere, steps=2) as learner:
        show(learner, part(clean, 0, 120), "clean")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
        assert result.outcome == "rejected"
        assert any(reason.startswith("not promoted: alias production names version 2") for reason in result.reasons)
        assert home.registry.resolve("production") == other
        assert list(learner.follow_alias()) == [events.ChampionChanged(1, other)]


def test_another_alias_can_be_learned_for(home: Home, clean: Images, monkeypatch: Any) -> None:
    wave_through(monkeypatch)
    home.registry.promote(1, alias="canary", who="test", why="first")
    with open_learner(home, alias="canary", steps=2) as learner:
        show(learner, part(clean, 0, 120), "clean")
        list(learner.update("by hand"))
    assert home.registry.resolve("canary") == 2
    assert home.registry.resolve("production") == 1


def test_a_former_champion_that_knows_the_concept_comes_back_without_training(home: Home, clean: Images) -> None:
    home.registry.promote(republish(home.registry, spoil), who="somebody", why="a mistake")

    def forbidden(champion: nn.Module, lesson: Lesson) -> nn.Module:
        raise AssertionError("nothing need be trained")

    with open_learner(home, challenger=forbidden) as learner:
        assert learner.champion == 2
        show(learner, part(clean, 0, 200), "clean")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
        assert (result.outcome, result.challenger["version"], learner.champion) == ("promoted", 1, 1)
        assert "version 1 knows this concept" in result.reasons
    assert home.registry.numbers() == [1, 2]
    assert home.registry.resolve("production") == 1


def test_only_one_learner_works_on_a_registry(home: Home) -> None:
    with open_learner(home) as learner:
        with pytest.raises(RegistryBusy, match="another learner works on"), open_learner(home):
            pass
        assert learner.champion == 1
    with open_learner(home) as learner:
        assert learner.champion == 1


def test_without_a_champion_there_is_nothing_to_learn_from(home: Home) -> None:
    with pytest.raises(VersionNotFound), open_learner(home, alias="staging"):
        pass
    with open_learner(home):  # the lock was given back
        pass


def test_an_unknown_strategy(home: Home) -> None:
    with pytest.raises(
        SettingsError, match=r"online\.strategy = magic: no such strategy; there are er-ace, finetune, replay"
    ):
        open_learner(home, strategy="magic")
    assert names() == ["er-ace", "finetune", "replay"]


@pytest.mark.parametrize("name", ["er-ace", "finetune", "replay"])
def test_a_strategy_leaves_the_champion_as_it_is(home: Home, clean: Images, name: str) -> None:
    champion = load(home.registry, 1).model
    before = copy.deepcopy(champion.state_dict())
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    lesson = Lesson(
        recent=part(clean, 0, 50),
        reservoir=part(clean, 0, 0),  # as in the beginning
        reference=part(clean, 50, 100),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        steps=3,
        batch_size=16,
        learning_rate=1e-3,
        precision="float32",
        generator=torch.Generator().manual_seed(0),
        on_step=count,
    )
    challenger = strategy(name)(champion, lesson)
    assert steps == 3
    assert not challenger.training
    for key, value in champion.state_dict().items():
        assert torch.equal(value, before[key])
        assert not torch.equal(value, challenger.state_dict()[key])


# --- going back


def test_a_bad_promotion_is_taken_back(home: Home, clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_through(monkeypatch)
    with open_learner(home, challenger=spoiled) as learner:
        show(learner, part(clean, 0, 120), "before")
        (result,) = of(events.RetrainResult, list(learner.update("by hand")))
        assert result.outcome == "promoted"
        assert home.registry.resolve("production") == learner.champion == 2
        found: list[Any] = []
        for start in range(120, 300, 20):
            found += show(learner, part(clean, start, start + 20), f"after-{start}")
            if found:
                break
        (back,) = of(events.RolledBack, found)
        assert (back.old, back.new) == (2, 1)
        assert start <= 200  # long before the watch would have ended
        assert home.registry.resolve("production") == learner.champion == 1
        move = home.registry.history("production")[-1]
        assert (move.action, move.who, move.from_version, move.to_version) == ("rollback", "learner", 2, 1)
        assert move.why == back.reason
        assert "labelled images since the promotion" in back.reason
        # All is as before the promotion; nothing more is taken back.
        assert list(learner.follow_alias()) == []
        assert of(events.RolledBack, show(learner, part(clean, 400, 600), "later")) == []


def test_a_good_promotion_stays(home: Home, clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_through(monkeypatch)
    with open_learner(home, challenger=same) as learner:
        show(learner, part(clean, 0, 120), "before")
        list(learner.update("by hand"))
        assert show(learner, part(clean, 120, 400), "after") == []
        assert learner.champion == 2


def test_without_a_watch_nothing_is_taken_back(home: Home, clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_through(monkeypatch)
    with open_learner(home, challenger=spoiled, watch=0) as learner:
        show(learner, part(clean, 0, 120), "before")
        list(learner.update("by hand"))
        assert of(events.RolledBack, show(learner, part(clean, 120, 400), "after")) == []
        assert home.registry.resolve("production") == 2


def test_a_promotion_by_hand_ends_the_watch(home: Home, clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_through(monkeypatch)
    other = republish(home.registry, spoil)
    with open_learner(home, challenger=spoiled) as learner:
        show(learner, part(clean, 0, 120), "before")
        list(learner.update("by hand"))
        home.registry.promote(other, who="somebody", why="they must know")
        # Before the learner has noticed: the rollback that it wants comes too late.
        assert of(events.RolledBack, show(learner, part(clean, 120, 240), "after")) == []
        assert list(learner.follow_alias()) == [events.ChampionChanged(3, other)]
        assert of(events.RolledBack, show(learner, part(clean, 240, 400), "later")) == []
    assert home.registry.resolve("production") == other


# --- restarts


def test_a_checkpoint_keeps_buffer_and_counters(home: Home, clean: Images, inverted: Images) -> None:
    with open_learner(home, challenger=same) as learner:
        show(learner, part(clean, 0, 200), "clean")
        list(learner.update("by hand"))
        show(learner, part(inverted, 0, 40), "inverted")
        before = learner.status()
        tensors, state = learner.buffer.dump()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        learner.save()
    with open_learner(home) as learner:
        assert learner.started().size == before.size
        assert learner.fresh == 40
        status = learner.status()
        assert (status.labelled, status.size, status.holdout, status.class_counts, status.accuracy) == (
            before.labelled, before.size, before.holdout, before.class_counts, before.accuracy,
        )  # fmt: skip
        assert (status.learning_rate, status.until_update) == (before.learning_rate, before.until_update)
        found, found_state = learner.buffer.dump()
        assert found_state == state
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        # What was read after the last commit comes again, and is known.
        show(learner, part(inverted, 0, 40), "inverted")
        assert learner.fresh == 40


def test_a_restarted_learner_makes_the_same_challenger(home: Home, clean: Images, tmp_path: Any) -> None:
    twin = home.copy(tmp_path / "twin")
    results = []
    for own, restart in ((home, False), (twin, True)):
        with open_learner(own, steps=5) as learner:
            show(learner, part(clean, 0, 200), "clean")
            list(learner.update("by hand"))
            learner.save()
            if not restart:
                show(learner, part(clean, 200, 400), "more")
                results.append(of(events.RetrainResult, list(learner.update("by hand")))[0])
        if restart:
            with open_learner(own, steps=5) as learner:
                show(learner, part(clean, 200, 400), "more")
                results.append(of(events.RetrainResult, list(learner.update("by hand")))[0])
    one, two = results
    assert (one.outcome, one.examples, one.champion, one.challenger, one.reasons) == (
        two.outcome, two.examples, two.champion, two.challenger, two.reasons,
    )  # fmt: skip


def test_what_was_not_saved_is_forgotten(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        show(learner, part(clean, 0, 80), "a")
        learner.save()
        show(learner, part(clean, 80, 160), "b")
    with open_learner(home) as learner:
        assert learner.status().labelled == 80
        show(learner, part(clean, 80, 160), "b")
        assert learner.status().labelled == 160


@pytest.mark.parametrize("change", [{"buffer_size": 400}, {"holdout_size": 100}, {"holdout_every": 9}], ids=str)
def test_a_checkpoint_of_other_sizes_is_left_aside(home: Home, clean: Images, change: dict[str, int]) -> None:
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
        path = learner.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RegistryError, match=rf"{CHECKPOINT} cannot be read .*delete it to start afresh"):
        open_learner(home).__enter__()
    path.unlink()
    with open_learner(home) as learner:
        assert learner.status().labelled == 0


def test_an_update_can_be_broken_off(home: Home, clean: Images) -> None:
    class Stopped(Exception):
        pass

    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stopped

    with open_learner(home, on_step=stop) as learner:
        show(learner, part(clean, 0, 120), "clean")
        with pytest.raises(Stopped):
            list(learner.update("by hand"))
        assert learner.champion == 1
        learner.save()
    assert home.registry.numbers() == [1]
    assert [move.action for move in home.registry.history()] == ["promote"]


def test_a_version_with_other_classes_is_not_adopted(home: Home, clean: Images) -> None:
    with open_learner(home) as learner:
        champion = learner.champion
        loaded = load(home.registry, champion)
        other = publish(
            home.registry,
            models.build("net", {"classes": 3}),
            name="net",
            arguments={"classes": 3},
            normalisation=loaded.manifest.normalisation,
            classes=("a", "b", "c"),
            split=loaded.manifest.split,
            settings={},
            metrics={},
            parent=None,
            origin="train",
        )
        home.registry.promote(other.version, who="somebody", why="by mistake")
        (notice,) = learner.follow_alias()
        assert isinstance(notice, events.Notice)
        assert "has other classes" in notice.message
        assert learner.champion == champion
        assert list(learner.follow_alias()) == []
        show(learner, part(clean, 0, 20), "a")
