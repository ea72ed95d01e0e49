"""What stands between a challenger and production: gate, watch, learning rate, drift and input monitors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import load_data
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from cifarctl.data import Images
from cifarctl.online.drift import Detection, ErrorMonitor, change_point
from cifarctl.online.gate import Decision, Record, decide, sign_test
from cifarctl.online.inputs import FEWEST, InputMonitor, features
from cifarctl.online.rate import AdaptiveRate
from cifarctl.online.watch import LOOKS, Watch

ALPHA = 0.01
DETECTORS = ("adwin", "page-hinkley", "kswin")


def records(
    both: int, gained: int, lost: int, neither: int, *, before: float = 0.7, after: float = 0.7
) -> tuple[Record, Record]:
    """Champion and challenger that agree and disagree on so many images."""
    old = [True] * both + [False] * gained + [True] * lost + [False] * neither
    new = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return Record(np.array(old, dtype=bool), before), Record(np.array(new, dtype=bool), after)


def judge(old: Record, new: Record, *, alpha: float = ALPHA, floor: float = 0.67) -> Decision:
    return decide(old, new, alpha=alpha, validation_floor=floor)


# --- the sign test


@given(gained=st.integers(0, 200), lost=st.integers(0, 200))
def test_p_values_are_those_of_the_binomial_test(gained: int, lost: int) -> None:
    if gained + lost == 0:
        assert sign_test(0, 0) == 1.0
        return
    expected = binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue
    assert sign_test(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_a_sign_test_of_very_many_is_no_overflow() -> None:
    assert sign_test(3000, 3000) == pytest.approx(0.505, abs=0.001)
    assert sign_test(6000, 0) == 0.0


# --- the gate


def test_a_better_challenger_is_promoted_with_its_figures() -> None:
    decision = judge(*records(both=100, gained=20, lost=5, neither=75, after=0.68))
    assert decision.promote
    stream, validation = decision.reasons
    for part in ("60.0%", "52.5%", "gains 20", "loses 5", "of 200", "p = 0.0020"):
        assert part in stream
    assert "validation accuracy 68.0%, not below the floor of 67.0%" in validation


@pytest.mark.parametrize(
    ("gained", "lost"),
    [(0, 0), (6, 0), (5, 20), (14, 5), (50, 50)],
    ids=["the same", "too few", "worse", "not sure enough", "different but no better"],
)
def test_a_challenger_that_is_not_surely_better_is_rejected(gained: int, lost: int) -> None:
    decision = judge(*records(both=50, gained=gained, lost=lost, neither=50, after=0.99))
    assert not decision.promote
    assert "above 0.01" in decision.reasons[0]


@given(gained=st.integers(0, 30), lost=st.integers(0, 30), alpha=st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_alpha_is_the_line(gained: int, lost: int, alpha: float) -> None:
    decision = judge(*records(10, gained, lost, 10), alpha=alpha)
    assert decision.promote == (sign_test(gained, lost) <= alpha)


@pytest.mark.parametrize(
    ("before", "after", "promote"),
    [
        (0.75, 0.67, True),  # at the floor
        (0.75, 0.6699, False),
        (0.75, 0.80, True),
        (0.60, 0.60, True),  # the champion is below the floor already: no worse will do
        (0.60, 0.59, False),
        (0.60, 0.65, True),
    ],
)
def test_the_validation_floor(before: float, after: float, promote: bool) -> None:
    old, new = records(both=100, gained=40, lost=0, neither=60, before=before, after=after)
    decision = judge(old, new, floor=0.67)
    assert decision.promote is promote
    assert (
        f"{'not below' if promote else 'below'} the floor of {min(0.67, before):.1%}" in decision.reasons[int(promote)]
    )


@pytest.mark.parametrize("after", [float("nan"), float("-inf")])
@pytest.mark.parametrize("before", [0.7, float("nan")])
@pytest.mark.parametrize("floor", [0.0, 0.67, float("nan"), float("-inf")])
def test_what_is_no_number_is_never_promoted(before: float, after: float, floor: float) -> None:
    if after == floor == float("-inf"):
        floor = 0.0
    old, new = records(both=0, gained=100, lost=0, neither=0, before=before, after=after)
    assert not judge(old, new, floor=floor).promote


def test_nothing_to_compare_on_promotes_nothing() -> None:
    decision = judge(*records(0, 0, 0, 0, after=0.99))
    assert not decision.promote
    assert "none against none" in decision.reasons[0]


def test_images_must_come_in_pairs() -> None:
    (old, _), (_, new) = records(5, 0, 0, 0), records(6, 0, 0, 0)
    with pytest.raises(ValueError, match="5 and 6 images cannot be compared in pairs"):
        judge(old, new)


def test_decide_is_pure() -> None:
    old, new = records(both=30, gained=20, lost=3, neither=10)
    before = copy.deepcopy((old, new))
    first, second = judge(old, new), judge(old, new)
    assert first == second
    for kept, given_ in zip(before, (old, new), strict=True):
        assert np.array_equal(kept.correct, given_.correct)
        assert kept.validation_accuracy == given_.validation_accuracy


@given(st.permutations(range(20)))
def test_the_order_of_the_images_does_not_matter(order: list[int]) -> None:
    old, new = records(both=4, gained=10, lost=1, neither=5)
    shuffled = [Record(record.correct[order], record.validation_accuracy) for record in (old, new)]
    assert judge(*shuffled) == judge(old, new)


@pytest.mark.parametrize(("alpha", "agreement"), [(0.01, 0.8), (0.05, 0.8), (0.05, 0.0)])
def test_equal_models_are_promoted_no_more_often_than_alpha(alpha: float, agreement: float) -> None:
    generator = np.random.default_rng(0)
    trials, promoted = 3000, 0
    for _ in range(trials):
        one, two, shared = (generator.random(200) < 0.7 for _ in range(3))
        same = generator.random(200) < agreement
        old, new = np.where(same, shared, one), np.where(same, shared, two)
        promoted += judge(Record(old, 0.7), Record(new, 0.7), alpha=alpha).promote
    # Three standard deviations of luck are granted on top.
    assert promoted / trials <= alpha + 3 * (alpha * (1 - alpha) / trials) ** 0.5
    assert promoted > 0 or alpha < 0.02  # a gate that lets nothing pass would be no test


def test_a_clearly_better_model_passes_most_of_the_time() -> None:
    generator = np.random.default_rng(1)
    passed = 0
    for _ in range(200):
        old, new = generator.random(200) < 0.5, generator.random(200) < 0.7
        passed += judge(Record(old, 0.7), Record(new, 0.7)).promote
    assert passed > 180


# --- the watch after a promotion


def feed(watch: Watch[str], before: NDArray[np.bool_], now: NDArray[np.bool_]) -> str | None:
    """Pair after pair until there is a verdict."""
    for old, new in zip(before.tolist(), now.tolist(), strict=True):
        watch.pair(old, new)
        if (verdict := watch.verdict()) is not None:
            return verdict
    return None


def test_a_worse_version_is_found_out_early() -> None:
    generator = np.random.default_rng(0)
    before, now = generator.random(500) < 0.7, generator.random(500) < 0.3
    watch = Watch("previous", 500, ALPHA)
    verdict = feed(watch, before, now)
    assert verdict
    assert verdict.startswith("of 100 labelled images since the promotion")
    alone, new_alone = int((before & ~now)[:100].sum()), int((now & ~before)[:100].sum())
    assert f"alone gets {alone} right, the new one alone {new_alone}" in verdict
    assert watch.previous == "previous"


def test_a_better_version_passes_its_watch() -> None:
    generator = np.random.default_rng(0)
    watch = Watch("previous", 500, ALPHA)
    before, now = generator.random(500) < 0.3, generator.random(500) < 0.7
    assert feed(watch, before[:499], now[:499]) is None
    assert feed(watch, before[499:], now[499:]) == ""


def test_an_equal_version_is_seldom_taken_back_however_often_one_looks() -> None:
    generator = np.random.default_rng(0)
    taken_back = 0
    for _ in range(400):
        before, now = generator.random(500) < 0.6, generator.random(500) < 0.6
        taken_back += bool(feed(Watch("previous", 500, 0.05), before, now))
    assert taken_back <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("images", [1, LOOKS - 1, 7, 100])
def test_a_watch_ends(images: int) -> None:
    watch = Watch("previous", images, ALPHA)
    for _ in range(images - 1):
        watch.pair(True, True)
        assert watch.verdict() is None
    watch.pair(True, True)
    assert watch.verdict() == ""


def test_a_verdict_may_be_asked_for_less_often_than_images_come() -> None:
    watch = Watch("previous", 100, ALPHA)
    for _ in range(250):
        watch.pair(True, False)
    assert watch.verdict()


# --- the learning rate


def test_the_rate_rises_at_once_and_falls_by_steps() -> None:
    rate = AdaptiveRate(base=1e-3, lowest=2e-4, highest=4e-3)
    assert rate.value == 1e-3
    assert rate.drift()
    assert rate.value == 4e-3
    assert not rate.drift()
    seen = [rate.value]
    while rate.calm():
        seen.append(rate.value)
    assert seen == sorted(seen, reverse=True)
    assert rate.value == 2e-4
    assert rate.promoted()
    assert rate.value == 1e-3
    assert not rate.promoted()


@given(st.lists(st.sampled_from(["drift", "promoted", "calm"]), max_size=60), st.floats(1e-5, 1), st.floats(1e-5, 1))
def test_the_rate_stays_within_its_bounds(steps: list[str], lowest: float, highest: float) -> None:
    rate = AdaptiveRate(base=1e-3, lowest=lowest, highest=highest)
    for step in steps:
        before = rate.value
        changed = getattr(rate, step)()
        assert changed == (rate.value != before)
        assert min(lowest, 1e-3) <= rate.value <= max(highest, 1e-3)
        if step == "drift":
            assert rate.value == rate.highest
        elif step == "calm":
            assert rate.value <= before


# --- drift of the error


def outcomes(seed: int, *parts: tuple[int, float]) -> list[bool]:
    """Wrong or right, for so many images at such an error each."""
    generator = np.random.default_rng(seed)
    return [bool(wrong) for images, error in parts for wrong in generator.random(images) < error]


def detections(monitor: ErrorMonitor, wrongs: list[bool]) -> list[Detection]:
    return [found for wrong in wrongs if (found := monitor.update(wrong)) is not None]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("seed", range(3))
def test_a_jump_of_the_error_is_found_within_300_images(name: str, seed: int) -> None:
    monitor = ErrorMonitor(name)
    assert detections(monitor, outcomes(seed, (1000, 0.2))) == []
    found = detections(monitor, outcomes(100 + seed, (300, 0.6)))
    assert found
    first = found[0]
    assert 1000 < first.at <= 1300
    assert first.error_before < 0.35
    assert first.error_after > 0.4
    assert abs(first.at - first.since - 1000) <= 60


@given(before=st.integers(10, 300), after=st.integers(10, 300), rises=st.booleans())
def test_a_change_from_always_to_never_is_found_exactly(before: int, after: int, rises: bool) -> None:
    assert change_point([not rises] * before + [rises] * after) == before


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_a_change_point_leaves_something_on_either_side(errors: list[bool]) -> None:
    assert 1 <= change_point(errors) <= len(errors) - 1


@pytest.mark.parametrize("seed", range(5))
def test_a_change_of_the_error_rate_is_found_nearly(seed: int) -> None:
    assert abs(change_point(outcomes(seed, (400, 0.2), (100, 0.7))) - 400) <= 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("error", [0.1, 0.3, 0.5])
def test_adwin_is_quiet_while_the_error_stays(seed: int, error: float) -> None:
    assert detections(ErrorMonitor("adwin"), outcomes(seed, (5000, error))) == []


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("seed", range(3))
def test_a_falling_error_is_no_drift(name: str, seed: int) -> None:
    monitor = ErrorMonitor(name)
    assert [found for found in detections(monitor, outcomes(seed, (600, 0.6))) if found.at > 60] == []
    assert detections(monitor, outcomes(100 + seed, (600, 0.2))) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_the_next_drift_is_found_too(name: str) -> None:
    found = detections(ErrorMonitor(name), outcomes(5, (800, 0.1), (800, 0.5), (800, 0.95)))
    assert any(800 < detection.at <= 1100 for detection in found)
    assert any(1600 < detection.at <= 1900 for detection in found)


@pytest.mark.parametrize("name", DETECTORS)
def test_after_a_reset_another_level_is_nothing_new(name: str) -> None:
    monitor = ErrorMonitor(name)
    detections(monitor, outcomes(0, (600, 0.1)))
    monitor.reset()
    assert detections(monitor, outcomes(1, (300, 0.5))) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_a_monitor_is_reproducible(name: str) -> None:
    wrongs = outcomes(2, (500, 0.2), (500, 0.5))
    assert detections(ErrorMonitor(name, 3), wrongs) == detections(ErrorMonitor(name, 3), wrongs)


# --- drift of the inputs


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    """Validation images, and others of the same kind."""
    dataset, split = load_data()
    return dataset.train.take(split.validation), dataset.train.take(split.stream)


def test_images_of_the_same_kind_have_not_moved(images: tuple[Images, Images]) -> None:
    validation, stream = images
    monitor = InputMonitor(validation)
    assert not monitor.moved(validation)
    for start in range(0, 400, 100):
        assert not monitor.moved(stream.take(torch.arange(start, start + 100)))


@pytest.mark.parametrize("change", ["invert", "swap", "noise", "dark", "flat"])
def test_images_that_look_otherwise_have_moved(images: tuple[Images, Images], change: str) -> None:
    validation, stream = images
    pixels = stream.pixels[:200]
    changed = {
        "invert": lambda: 255 - pixels,
        "swap": lambda: torch.roll(pixels, 1, dims=1) // 2,
        "noise": lambda: (pixels + 30 * torch.randn(pixels.shape)).clamp(0, 255).to(torch.uint8),
        "dark": lambda: pixels // 2,
        "flat": lambda: torch.full_like(pixels, 128),
    }[change]()
    assert InputMonitor(validation).moved(Images(changed, stream.labels[:200]))


def test_too_few_images_say_nothing(images: tuple[Images, Images]) -> None:
    validation, stream = images
    monitor = InputMonitor(validation)
    inverted = Images(255 - stream.pixels, stream.labels)
    assert not monitor.moved(inverted.take(torch.arange(FEWEST - 1)))
    assert monitor.moved(inverted.take(torch.arange(FEWEST)))
    assert not monitor.moved(inverted.take(torch.arange(0)))


def test_features_of_images_are_finite(images: tuple[Images, Images]) -> None:
    validation, _ = images
    found = features(validation.pixels)
    assert found.shape == (len(validation), 9)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[:, 0], validation.pixels[:, 0].float().mean(dim=(1, 2)) / 255)


def test_the_labels_do_not_matter(images: tuple[Images, Images]) -> None:
    validation, stream = images
    relabelled = Images(stream.pixels[:200], torch.zeros(200, dtype=torch.int64))
    assert not InputMonitor(validation).moved(relabelled)
