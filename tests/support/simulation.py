"""The gate by simulation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cifarctl.online.gate import BETS, spend

ALPHA = spend(0.1, 1)  # the first trial's part of what is allowed by default


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
