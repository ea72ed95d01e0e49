"""The gate between a challenger and production, and the guard."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import ALPHA, capital, promoted

from cifarctl.online.gate import BETS, MIN_CHANGE, Guard, Pairs, amount, decide, follow, spend

SOUND = Guard(champion=0.7, challenger=0.7, floor=0.67)
UNSOUND = Guard(champion=0.7, challenger=0.6, floor=0.67)
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


def test_the_simulated_capital_is_the_evidence() -> None:
    wins = np.random.default_rng(0).random((3, 400)) < 0.6
    for run, evidence in zip(wins, capital(wins), strict=True):
        pairs = Pairs()
        for won, expected in zip(run, evidence, strict=True):
            pairs += Pairs(gained=1) if won else Pairs(lost=1)
            assert pairs.evidence == pytest.approx(expected, rel=1e-9)


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
def test_a_snapshot_that_predicts_the_same_is_not_a_new_version(held_out: Pairs, changed: float) -> None:
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
def test_a_nan_is_never_promoted(challenger: float, champion: float, floor: float, waived: str | None) -> None:
    guard = Guard(champion, challenger, floor, waived)
    assert not guard.holds
    assert not decide(Pairs(gained=100), guard, alpha=ALPHA).promote
    assert not follow(Pairs(gained=100), guard, changed=1.0, alpha=ALPHA).promote


def test_a_nan_floor_lets_nothing_pass() -> None:
    assert not Guard(champion=0.7, challenger=0.99, floor=float("nan")).holds


def test_a_floor_may_be_waived_with_a_reason() -> None:
    guard = Guard(champion=0.7, challenger=0.2, floor=0.67, waived="the inputs have moved")
    assert guard.holds
    assert str(guard) == "validation check waived: the inputs have moved"
    assert Guard.none("the inputs have moved").holds  # so that nobody need be measured on them
    assert decide(Pairs(gained=100), guard, alpha=ALPHA).promote
    assert not decide(Pairs(lost=100), guard, alpha=ALPHA).promote
