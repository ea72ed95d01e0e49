"""The gate by simulation: how often a challenger is promoted that is worse, equal or a little better."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import ALPHA, promoted


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
