"""What can be known and learned without labels: estimates, statistics, and a learner that nobody tells anything."""

from __future__ import annotations

import copy
import itertools
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Home, train_home
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifarctl import events, models
from cifarctl.data import Images, synthetic
from cifarctl.learning import lineage as module
from cifarctl.learning.learner import Learner
from cifarctl.learning.read_progress import ReadProgress
from cifarctl.learning.schedule import CALM_AFTER
from cifarctl.learning.scored_model import ScoredModel
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.statistics import SOURCE, adapted
from cifarctl.online.concept import MIN_LABELLED
from cifarctl.online.estimate import likely_right, threshold
from cifarctl.online.gate import MIN_ESTIMATED_GAIN, Guard, Pairs, decide, follow
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings
from cifarctl.stream.codecs import Record
from cifarctl.training.metrics import evaluate

SOUND = Guard.none("the inputs have moved")
ONLINE = OnlineSettings(
    update_every=100, min_examples=100, buffer_size=400, holdout_size=100, holdout_every=4, reference_size=400, steps=6,
    batch_size=32, validation_size=100, watch=200,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which arithmetic is faster is measured, and may come out otherwise each time."""
    monkeypatch.setattr(module, "choose_precision", lambda *_, **__: "float32")


def answers(count: int, seed: int, *, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (count, 10) that are honest about how sure they are, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = skill * torch.randn((count, 10), generator=generator)
    probabilities = logits.softmax(dim=1)
    return probabilities, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


# --- estimates


@given(st.integers(0, 2**31), st.integers(1, 200), st.floats(0.1, 8))
def test_on_the_labelled_images_as_many_count_as_are_right(seed: int, count: int, skill: float) -> None:
    probabilities, labels = answers(count, seed, skill=skill)
    right = int((probabilities.argmax(dim=1) == labels).sum())
    assert abs(int(likely_right(probabilities, threshold(probabilities, labels)).sum()) - right) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_an_estimate_follows_the_share_of_easy_images(seed: int) -> None:
    def mixed(easy: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = answers(easy, seed, skill=8), answers(1000 - easy, 50 + seed, skill=0.5)
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    least = threshold(*mixed(600, seed))
    for easy in (200, 400, 800):
        unknown, truth = mixed(easy, 100 + seed)
        accuracy = float((unknown.argmax(dim=1) == truth).float().mean())
        assert abs(float(likely_right(unknown, least).float().mean()) - accuracy) < 0.2


def test_a_small_gain_that_is_but_estimated_does_not_do() -> None:
    total = 5000
    small = Pairs(both=total // 2, gained=int(MIN_ESTIMATED_GAIN * total) - 1, lost=0, neither=total // 2)
    large = small + Pairs(gained=total // 20)
    assert decide(small, SOUND, alpha=0.1).promote
    assert not decide(small, SOUND, alpha=0.1, estimated=True).promote
    assert decide(large, SOUND, alpha=0.1, estimated=True).promote
    for decision in (
        decide(large, SOUND, alpha=0.1, estimated=True),
        follow(large, SOUND, changed=0.5, alpha=0.1, estimated=True),
    ):
        assert "estimated without labels" in decision.reasons[0]


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


# --- statistics


def images(count: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return scale * torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(1)) + shift


def test_statistics_are_those_of_the_images_and_a_few_more() -> None:
    model = models.build("net-bn", {}).eval()
    before = copy.deepcopy(model.state_dict())
    window = images(100, scale=2, shift=3)
    new = adapted(model, window)
    assert new is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    kept = {name for name, _ in model.named_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items() if name in kept)
    share = SOURCE / (SOURCE + 100)
    with torch.no_grad():
        seen = model[0](window).transpose(0, 1).flatten(1)  # the first normalisation sees it, by channels
    torch.testing.assert_close(new[1].running_mean, (1 - share) * seen.mean(dim=1), rtol=1e-3, atol=1e-3)
    expected = share + (1 - share) * seen.var(dim=1) + share * (1 - share) * seen.mean(dim=1) ** 2
    torch.testing.assert_close(new[1].running_var, expected, rtol=1e-3, atol=1e-3)
    assert (new.training, new[1].momentum) == (False, 0.1)


@pytest.mark.parametrize("model", [models.build("net", {}), nn.BatchNorm2d(3, track_running_stats=False)])
def test_a_model_that_keeps_no_statistics_has_none_to_change(model: nn.Module) -> None:
    assert adapted(model, images(60)) is None


def test_only_what_follows_the_stream_changes_with_it() -> None:
    members = [models.build("net-bn", {}).eval() for _ in range(2)]
    pool = Mixture(members, 10).eval()
    pool.follows[1] = True
    window = images(80, scale=3, shift=1)
    before, after = pool.plain(window), pool.adapted(window).plain(window)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    assert torch.equal(pool.plain(window), before)
    assert torch.equal(pool.adapted(window).state_dict()["weights"], pool.weights)


# --- the learner


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


def accuracy(home: Home, stream: Images) -> float:
    return evaluate(load(home.registry, home.registry.resolve("production")).predictor(), stream).accuracy


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_calm_stream_without_labels_changes_nothing(home: Home) -> None:
    with open_learner(home) as learner:
        assert see(learner, drawn(14, 600, inverted=False)) == []
    assert home.registry.numbers() == [1]


@pytest.mark.slow
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


@pytest.mark.parametrize("strategy", ["replay", "finetune", "er-ace", "der++"])
def test_what_learns_from_labels_only_waits_for_them(home: Home, strategy: str) -> None:
    with open_learner(home, strategy=strategy) as learner:
        see(learner, drawn(11, 200, inverted=False))
        assert of(events.RetrainStarted, see(learner, drawn(12, 300, inverted=True))) == []


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# --- what has been shown


def record(offset: int, partition: int = 0) -> Record:
    return Record("images", partition, offset, 0, b"id", b"value", ())


def test_what_is_read_again_is_not_shown_again() -> None:
    shown = ReadProgress()
    assert [shown.add(record(offset)) for offset in (5, 6, 7, 6, 7, 8)] == [True, True, True, False, False, True]
    assert shown.add(record(0, partition=1))
    shown.committed({("images", 0): 6, ("elsewhere", 0): 3})
    after = ReadProgress.load(json.loads(json.dumps(shown.dump({"a": 3}))))
    assert [after.add(record(offset)) for offset in (6, 7, 8)] == [False, False, False]
    # Saved in the middle of that: the next one knows as much.
    last = ReadProgress.load(after.dump({}))
    assert [last.add(record(offset)) for offset in (6, 8, 9)] == [False, False, True]
    assert [last.add(record(offset, partition=1)) for offset in (0, 1)] == [False, True]
    assert (last.number("a", 7), last.number("b", 7)) == (3, 7)


def test_a_topic_that_is_made_anew_is_shown() -> None:
    shown = ReadProgress()
    assert all(shown.add(record(offset)) for offset in range(100, 200))
    shown.committed({("images", 0): 150})
    assert all(shown.add(record(offset)) for offset in range(300))


def test_confidence_tells_of_a_drift_that_the_inputs_do_not_show(home: Home) -> None:
    """Of these pictures the channels are much alike: exchanged, they move less than the answers do."""
    stream = drawn(31, 700, inverted=False)
    moved = torch.cat([stream.pixels[:400], stream.pixels[400:, [2, 0, 1]]])
    with open_learner(home, strategy="replay") as learner:
        found = see(learner, Images(moved, stream.labels))
    (drift,) = [event for event in found if isinstance(event, events.DriftDetected)]
    assert drift.detector == "confidence"
    assert (drift.error_before, drift.error_after) == (None, None)
    assert abs(drift.at - drift.since - 400) <= 50
