"""What can be known and learned without labels: estimates, statistics, and a learner that nobody tells anything."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from helpers import Home
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from unlabelled import drawn, of, open_learner, see

from cifarctl import events, models
from cifarctl.data import Images
from cifarctl.learning.read_progress import ReadProgress
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.statistics import SOURCE, adapted
from cifarctl.online.estimate import likely_right, threshold
from cifarctl.online.gate import MIN_ESTIMATED_GAIN, Guard, Pairs, decide, follow
from cifarctl.stream.records import Record

SOUND = Guard.none("the inputs have moved")


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


def test_a_calm_stream_without_labels_changes_nothing(home: Home) -> None:
    with open_learner(home) as learner:
        assert see(learner, drawn(14, 600, inverted=False)) == []
    assert home.registry.numbers() == [1]


@pytest.mark.parametrize("strategy", ["replay", "finetune", "er-ace", "der++"])
def test_what_learns_from_labels_only_waits_for_them(home: Home, strategy: str) -> None:
    with open_learner(home, strategy=strategy) as learner:
        see(learner, drawn(11, 200, inverted=False))
        assert of(events.RetrainStarted, see(learner, drawn(12, 300, inverted=True))) == []


# --- what has been shown


def record(offset: int, partition: int = 0) -> Record:
    return Record("images", partition, offset, 0, b"id", b"value", ())


def test_images_read_again_are_not_counted_again() -> None:
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
