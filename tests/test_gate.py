"""What stands between a challenger and production: the gate, the learning rate, drift and input monitors."""

from __future__ import annotations

import itertools
from dataclasses import astuple

import numpy as np
import pytest
import torch
from helpers import load_data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cifarctl.data import Images, synthetic
from cifarctl.online.drift import ClassMonitor, Detection, ErrorMonitor, Name, change_point
from cifarctl.online.gate import BETS, MIN_CHANGE, Guard, Pairs, amount, decide, follow, spend
from cifarctl.online.inputs import MIN_IMAGES, WINDOW, InputMonitor, Movement, features
from cifarctl.online.rate import AdaptiveRate

ALPHA = spend(0.1, 1)  # the first trial's part of what is allowed by default
SOUND = Guard(champion=0.7, challenger=0.7, floor=0.67)
UNSOUND = Guard(champion=0.7, challenger=0.6, floor=0.67)
DETECTORS = ("adwin", "hddm-w", "page-hinkley", "kswin")

counts = st.builds(Pairs, *[st.integers(0, 500)] * 4)
outcome_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50)


def judged(outcomes: list[tuple[bool, bool]]) -> Pairs:
    """Pairs from what champion and challenger got right, image by image."""
    both = np.array(outcomes, dtype=bool).reshape(-1, 2)
    return Pairs.of(both[:, 0], both[:, 1])


# --- pairs


def test_pairs_count_who_was_right() -> None:
    champion = np.array([True, True, False, True, False, False, True])
    challenger = np.array([True, False, True, True, True, False, True])
    pairs = Pairs.of(champion, challenger)
    assert pairs == Pairs(both=3, gained=2, lost=1, neither=1)
    assert len(pairs) == 7
    assert pairs.champion == 4 / 7
    assert pairs.challenger == 5 / 7


@given(outcome_pairs)
def test_accuracies_are_those_of_either_model(outcomes: list[tuple[bool, bool]]) -> None:
    pairs = judged(outcomes)
    assert len(pairs) == len(outcomes)
    if not outcomes:
        assert pairs.champion is pairs.challenger is None
        return
    assert pairs.champion == sum(old for old, _ in outcomes) / len(outcomes)
    assert pairs.challenger == sum(new for _, new in outcomes) / len(outcomes)


@given(outcome_pairs, outcome_pairs)
def test_pairs_of_one_batch_after_another_add_up(first: list[tuple[bool, bool]], then: list[tuple[bool, bool]]) -> None:
    assert judged(first) + judged(then) == judged(first + then)


@given(outcome_pairs)
def test_swapped_pairs_have_the_roles_exchanged(outcomes: list[tuple[bool, bool]]) -> None:
    pairs = judged(outcomes)
    assert pairs.swapped() == judged([(new, old) for old, new in outcomes])
    assert pairs.swapped().swapped() == pairs


def test_images_must_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="5 and 6 images cannot be compared in pairs"):
        Pairs.of(np.ones(5, dtype=bool), np.ones(6, dtype=bool))


# --- evidence


def test_the_bets_are_one_capital() -> None:
    assert sum(part for _, part in BETS) == pytest.approx(1)
    assert all(0.5 < wins < 1 for wins, _ in BETS)
    assert Pairs().evidence == pytest.approx(1)


@given(counts)
def test_evidence_is_a_fair_bet(pairs: Pairs) -> None:
    won, lost = (pairs + Pairs(gained=1)).evidence, (pairs + Pairs(lost=1)).evidence
    assert lost < pairs.evidence < won
    assert (won + lost) / 2 == pytest.approx(pairs.evidence, rel=1e-9)


@given(counts, st.integers(0, 500), st.integers(0, 500))
def test_pairs_on_which_both_agree_are_no_evidence(pairs: Pairs, both: int, neither: int) -> None:
    assert (pairs + Pairs(both=both, neither=neither)).evidence == pairs.evidence


@pytest.mark.parametrize(("gained", "lost"), [(10**7, 0), (0, 10**7), (10**7, 10**7)])
def test_evidence_of_very_many_pairs_stays_a_number(gained: int, lost: int) -> None:
    assert 0 <= Pairs(gained=gained, lost=lost).evidence <= 1e300


# --- the gate by simulation: the chance to be promoted, looked at after every pair


def capital(wins: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Evidence (runs, pairs) after each of the pairs (runs, pairs) that only one model got right."""
    gained = np.cumsum(wins, axis=1, dtype=np.int32)
    lost = np.arange(1, wins.shape[1] + 1, dtype=np.int32) - gained
    total = np.zeros(wins.shape)
    for share, part in BETS:
        total += part * np.exp(gained * np.log(2 * share) + lost * np.log(2 * (1 - share)))
    return total


def promoted(better: float, disagree: float, images: int, *, runs: int, seed: int) -> float:
    """The share of trials that a challenger wins within so many images.

    It is by `better` more accurate than the champion and `disagree` is the share of images that only one of the two
    gets right.
    """
    generator = np.random.default_rng(seed)
    told = generator.binomial(images, disagree, runs)  # pairs that tell; all others leave the evidence as it is
    wins = generator.random((runs, told.max()), dtype=np.float32) < (1 + better / disagree) / 2
    highest = np.where(np.arange(told.max()) < told[:, None], capital(wins), 0).max(axis=1)
    return float((highest >= 1 / ALPHA).mean())


def test_the_simulated_capital_is_the_evidence() -> None:
    wins = np.random.default_rng(0).random((3, 400)) < 0.6
    for run, evidence in zip(wins, capital(wins), strict=True):
        pairs = Pairs()
        for won, expected in zip(run, evidence, strict=True):
            pairs += Pairs(gained=1) if won else Pairs(lost=1)
            assert pairs.evidence == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("disagree", [0.05, 0.2, 0.4])
def test_a_worse_challenger_is_hardly_ever_promoted(disagree: float) -> None:
    assert promoted(-0.01, disagree, 10_000, runs=4000, seed=0) <= 0.05


@pytest.mark.parametrize("disagree", [0.05, 0.2, 0.4])
def test_an_equal_challenger_is_promoted_no_more_often_than_alpha(disagree: float) -> None:
    runs = 4000
    share = promoted(0.0, disagree, 10_000, runs=runs, seed=1)
    # Three standard deviations of luck are granted on top.
    assert 0 < share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / runs) ** 0.5


@pytest.mark.parametrize("disagree", [0.15, 0.2])
def test_a_challenger_that_is_5_points_better_is_promoted_within_1000_pairs(disagree: float) -> None:
    # Very many, as the chance is hardly above that.
    assert np.mean([promoted(0.05, disagree, 1000, runs=20_000, seed=seed) for seed in range(4)]) >= 0.9


def test_a_challenger_that_is_15_points_better_is_promoted_within_150_pairs() -> None:
    assert promoted(0.15, 0.2, 150, runs=20_000, seed=3) >= 0.9


# --- what trials spend


@given(st.floats(1e-6, 0.5))
def test_all_trials_together_spend_alpha(alpha: float) -> None:
    parts = [spend(alpha, number) for number in range(1, 2001)]
    assert parts == sorted(parts, reverse=True)
    assert parts[-1] > 0
    assert 0.999 * alpha < sum(parts) <= alpha


# --- the decision


@given(counts, st.sampled_from([0.001, 0.01, ALPHA, 0.2]), st.sampled_from([SOUND, UNSOUND]))
def test_evidence_and_guard_decide(pairs: Pairs, alpha: float, guard: Guard) -> None:
    assert decide(pairs, guard, alpha=alpha).promote == (pairs.evidence >= 1 / alpha and guard.holds)


def test_a_better_challenger_is_promoted_with_its_figures() -> None:
    decision = decide(Pairs(both=100, gained=20, lost=5, neither=75), SOUND, alpha=ALPHA)
    assert decision.promote
    stream, validation = decision.reasons
    assert stream.startswith("60.0% against 52.5% on 200 images (20 gained, 5 lost), e-value ")
    assert stream.endswith("of 16.4")
    assert validation == "validation accuracy 70.0%, not below the floor of 67.0%"


@pytest.mark.parametrize(
    ("gained", "lost"),
    [(0, 0), (4, 0), (5, 20), (14, 7), (50, 50), (500, 500)],
    ids=["the same", "too few", "worse", "not sure enough", "different but no better", "the same of many"],
)
def test_a_challenger_that_is_not_surely_better_is_not_promoted(gained: int, lost: int) -> None:
    decision = decide(Pairs(50, gained, lost, 50), SOUND, alpha=ALPHA)
    assert not decision.promote
    assert f"{gained} gained, {lost} lost" in decision.reasons[0]


def test_nothing_to_compare_on_promotes_nothing() -> None:
    decision = decide(Pairs(), SOUND, alpha=ALPHA)
    assert not decision.promote
    assert decision.reasons[0] == "no images predicted by both yet, e-value 1.0 of 16.4"


def test_the_reason_that_decided_comes_first() -> None:
    better, worse = Pairs(gained=100), Pairs(lost=100)
    assert "below the floor" in decide(better, UNSOUND, alpha=ALPHA).reasons[0]
    assert "e-value" in decide(worse, UNSOUND, alpha=ALPHA).reasons[0]
    assert "e-value" in decide(better, SOUND, alpha=ALPHA).reasons[0]


@pytest.mark.parametrize(
    ("evidence", "told"), [(0.04, "0.0"), (16.44, "16.4"), (999.9, "999.9"), (1e300, "over 1,000")]
)
def test_evidence_is_told_in_few_letters(evidence: float, told: str) -> None:
    assert amount(evidence) == told


# --- later snapshots of a lineage that has won its trial


@given(counts, st.sampled_from([SOUND, UNSOUND]), st.sampled_from([0.001, 0.01, ALPHA, 0.2]), st.floats(MIN_CHANGE, 1))
def test_a_changed_snapshot_is_held_back_by_a_fall_or_the_guard_only(
    held_out: Pairs, guard: Guard, alpha: float, changed: float
) -> None:
    fallen = decide(held_out.swapped(), SOUND, alpha=alpha).promote
    assert follow(held_out, guard, changed=changed, alpha=alpha).promote == (guard.holds and not fallen)


TRUSTED = "lineage already trusted; no significant loss on held-out images"
FALLEN = "a significant loss on held-out images"


@pytest.mark.parametrize(
    ("held_out", "guard", "promote", "first"),
    [
        (Pairs(), SOUND, True, "no held-out images yet"),
        (Pairs(10, 5, 5, 10), SOUND, True, f"{TRUSTED}: 50.0% against 50.0% on 30 images (5 gained, 5 lost)"),
        (Pairs(10, 5, 8, 7), SOUND, True, f"{TRUSTED}: 50.0% against 60.0% on 30 images (5 gained, 8 lost)"),
        (Pairs(10, 0, 20, 0), SOUND, False, f"{FALLEN}: 33.3% against 100.0% on 30 images (0 gained, 20 lost)"),
        (Pairs(10, 20, 0, 0), UNSOUND, False, "validation accuracy 60.0%, below the floor of 67.0%"),
    ],
    ids=["nothing held out", "no better", "hardly worse", "fallen", "below the floor"],
)
def test_a_lineage_goes_on_unless_something_is_wrong(held_out: Pairs, guard: Guard, promote: bool, first: str) -> None:
    decision = follow(held_out, guard, changed=0.1, alpha=ALPHA)
    assert decision.promote is promote
    assert decision.reasons[0] == first
    assert len(decision.reasons) == 2


@given(counts, st.floats(0, MIN_CHANGE, exclude_max=True))
def test_a_snapshot_that_answers_as_the_one_before_is_no_new_version(held_out: Pairs, changed: float) -> None:
    decision = follow(held_out, SOUND, changed=changed, alpha=ALPHA)
    assert not decision.promote
    assert decision.reasons == (f"predictions changed on only {changed:.1%} of recent images: not worth a version",)


@given(counts, st.sampled_from([SOUND, UNSOUND]))
def test_decisions_are_pure(pairs: Pairs, guard: Guard) -> None:
    before = astuple(pairs), astuple(guard)
    assert decide(pairs, guard, alpha=ALPHA) == decide(pairs, guard, alpha=ALPHA)
    assert follow(pairs, guard, changed=0.1, alpha=ALPHA) == follow(pairs, guard, changed=0.1, alpha=ALPHA)
    assert (astuple(pairs), astuple(guard)) == before


# --- the guard


@pytest.mark.parametrize(
    ("champion", "challenger", "holds"),
    [
        (0.75, 0.67, True),  # at the floor
        (0.75, 0.6699, False),
        (0.75, 0.80, True),
        (0.60, 0.60, True),  # the champion is below the floor already: no worse will do
        (0.60, 0.59, False),
        (0.60, 0.65, True),
    ],
)
def test_the_validation_floor(champion: float, challenger: float, holds: bool) -> None:
    guard = Guard(champion, challenger, floor=0.67)
    assert guard.holds is holds
    verdict = "not below" if holds else "below"
    assert str(guard) == f"validation accuracy {challenger:.1%}, {verdict} the floor of {min(0.67, champion):.1%}"


@pytest.mark.parametrize("challenger", [float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("champion", [0.7, float("nan")])
@pytest.mark.parametrize("floor", [0.0, 0.67, float("nan"), float("-inf")])
@pytest.mark.parametrize("waived", [None, "the inputs have moved"])
def test_what_is_no_number_is_never_promoted(
    challenger: float, champion: float, floor: float, waived: str | None
) -> None:
    guard = Guard(champion, challenger, floor, waived)
    assert not guard.holds
    assert not decide(Pairs(gained=100), guard, alpha=ALPHA).promote
    assert not follow(Pairs(gained=100), guard, changed=1.0, alpha=ALPHA).promote


def test_a_floor_that_is_no_number_lets_nothing_pass() -> None:
    assert not Guard(champion=0.7, challenger=0.99, floor=float("nan")).holds


def test_a_floor_may_be_waived_with_a_reason() -> None:
    guard = Guard(champion=0.7, challenger=0.2, floor=0.67, waived="the inputs have moved")
    assert guard.holds
    assert str(guard) == "validation check waived: the inputs have moved"
    assert Guard.none("the inputs have moved").holds  # so that nobody need be measured on them
    assert decide(Pairs(gained=100), guard, alpha=ALPHA).promote
    assert not decide(Pairs(lost=100), guard, alpha=ALPHA).promote


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
    assert not rate.calm()
    assert rate.drift()


@given(st.lists(st.sampled_from(["drift", "calm"]), max_size=60), st.floats(1e-5, 1), st.floats(1e-5, 1))
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
def test_a_jump_of_the_error_is_found_within_300_images(name: Name, seed: int) -> None:
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
def test_a_falling_error_is_no_drift(name: Name, seed: int) -> None:
    monitor = ErrorMonitor(name)
    assert [found for found in detections(monitor, outcomes(seed, (600, 0.6))) if found.at > 60] == []
    assert detections(monitor, outcomes(100 + seed, (600, 0.2))) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_the_next_drift_is_found_too(name: Name) -> None:
    found = detections(ErrorMonitor(name), outcomes(5, (800, 0.1), (800, 0.5), (800, 0.95)))
    assert any(800 < detection.at <= 1100 for detection in found)
    assert any(1600 < detection.at <= 1900 for detection in found)


@pytest.mark.parametrize("name", DETECTORS)
def test_after_a_reset_another_level_is_nothing_new(name: Name) -> None:
    monitor = ErrorMonitor(name)
    detections(monitor, outcomes(0, (600, 0.1)))
    monitor.reset()
    assert detections(monitor, outcomes(1, (300, 0.5))) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_a_monitor_is_reproducible(name: Name) -> None:
    wrongs = outcomes(2, (500, 0.2), (500, 0.5))
    assert detections(ErrorMonitor(name, 3), wrongs) == detections(ErrorMonitor(name, 3), wrongs)


@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 99),
    before=st.lists(st.tuples(st.integers(1, 250), st.sampled_from([0.0, 0.2, 0.5, 0.9])), max_size=4),
    after=st.lists(st.tuples(st.integers(1, 250), st.sampled_from([0.0, 0.2, 0.5, 0.9])), max_size=4),
    used=st.integers(0, 60),
)
@pytest.mark.slow
def test_a_monitor_that_takes_over_a_dump_goes_on_as_the_other_would(
    name: Name, seed: int, before: list[tuple[int, float]], after: list[tuple[int, float]], used: int
) -> None:
    original, successor = ErrorMonitor(name, seed), ErrorMonitor(name, seed)
    detections(original, outcomes(seed, *before))
    detections(successor, outcomes(1000 + seed, (used, 0.5)))  # whatever it has seen itself is forgotten
    successor.load(original.dump())
    wrongs = outcomes(100 + seed, *after, (200, 0.1), (200, 0.95))
    for wrong in wrongs:
        assert successor.update(wrong) == original.update(wrong)
    assert torch.equal(successor.dump(), original.dump())


# --- a class by itself

CLASSES = 10


def by_class(monitor: ClassMonitor, spoilt: int | None, count: int, start: int = 0) -> list[tuple[int, int, int]]:
    """Images of all classes in turns, a tenth of them wrong, of the class `spoilt` nearly all: where told, and what."""
    rng, told = np.random.default_rng(start), []
    for number in range(start, start + count):
        label = number % CLASSES
        wrong = bool(rng.random() < (0.9 if label == spoilt else 0.1))
        if (found := monitor.update(label, number, wrong)) is not None:
            told.append((number, label, found[0]))
    return told


@pytest.mark.parametrize("name", ["adwin", "hddm-w", "kswin"])
def test_a_class_that_drifts_is_noticed_and_dated(name: Name) -> None:
    monitor = ClassMonitor(name, CLASSES)
    assert by_class(monitor, None, 4000) == []
    (told, label, began), *_ = by_class(monitor, 7, 2000, start=4000)
    assert label == 7
    assert told <= 5300
    assert abs(began - 4000) <= 100


def test_class_monitors_go_on_from_a_dump() -> None:
    first, second = ClassMonitor("adwin", CLASSES), ClassMonitor("adwin", CLASSES)
    by_class(first, None, 3000)
    second.load(*first.dump())
    assert by_class(first, 2, 2000, start=3000) == by_class(second, 2, 2000, start=3000) != []
    second.reset()
    assert by_class(second, None, 1000, start=5000) == []


def test_a_dump_stays_as_it_is_while_the_monitor_goes_on() -> None:
    monitor = ErrorMonitor("adwin")
    empty = monitor.dump()
    detections(monitor, outcomes(0, (50, 0.3)))
    dumped = monitor.dump()
    kept = dumped.clone()
    detections(monitor, outcomes(1, (50, 0.3)))
    assert torch.equal(dumped, kept)
    monitor.load(empty)
    assert torch.equal(monitor.dump(), empty)


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
    assert not monitor.moved(inverted.take(torch.arange(MIN_IMAGES - 1)))
    assert monitor.moved(inverted.take(torch.arange(MIN_IMAGES)))
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


# --- inputs that move in the course of a stream

PICTURES = synthetic.draw(1400, seed=5).pixels


def moved_at(monitor: Movement, pixels: torch.Tensor, sizes: list[int]) -> list[tuple[int, int]]:
    """Where in the stream movements are told, and where they are said to have begun, images coming in such parts."""
    told, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(pixels):
            return told
        end = min(start + size, len(pixels))
        since = monitor.update(features(pixels[start:end]))
        start = end
        if since is not None:
            told.append((start, start - since))
    return told


def moving() -> torch.Tensor:
    images = PICTURES[:700]
    return torch.cat([images[:300], 255 - images[300:500], images[500:700]])


def test_inputs_that_move_are_noticed_soon_and_dated() -> None:
    first, second = moved_at(Movement(), moving(), [25])
    for (told, began), change in zip((first, second), (300, 500), strict=True):
        assert change < told <= change + WINDOW
        assert abs(began - change) <= 10


def test_inputs_that_stay_are_not_said_to_move() -> None:
    assert moved_at(Movement(), PICTURES, [25]) == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_movements_do_not_depend_on_how_images_come(sizes: list[int]) -> None:
    """But for the image at which they are told, which is the last of its part."""
    expected = [began for _, began in moved_at(Movement(), moving(), [25])]
    assert [began for _, began in moved_at(Movement(), moving(), sizes)] == expected


@given(st.integers(0, 690))
@settings(max_examples=10, deadline=None)
def test_a_monitor_of_movements_goes_on_from_a_dump(cut: int) -> None:
    pixels, whole, first, second = moving(), Movement(), Movement(), Movement()
    moved_at(whole, pixels[:cut], [10])
    moved_at(first, pixels[:cut], [10])
    second.load(first.dump())
    assert moved_at(second, pixels[cut:], [10]) == moved_at(whole, pixels[cut:], [10])
