"""The gate: the only way into production. A pure function of two records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Record:
    """How a model did: on the same held-out stream images as its rival, (N,) bool, and on the validation images."""

    correct: NDArray[np.bool_]
    validation_accuracy: float

    @property
    def stream_accuracy(self) -> float | None:
        """Share of the held-out stream images that it got right; None where there are none."""
        return float(self.correct.mean()) if len(self.correct) else None


@dataclass(frozen=True)
class Decision:
    """The verdict and, whatever it is, the figures behind it."""

    promote: bool
    reasons: tuple[str, ...]


def decide(champion: Record, challenger: Record, *, alpha: float, validation_floor: float) -> Decision:
    """Whether `challenger` shall replace `champion`.

    It must be better on held-out stream images by the one-sided exact McNemar test (McNemar 1947; on the images that
    just one of the two gets right, a sign test) at level `alpha`, and its validation accuracy must not be below
    `validation_floor`, which stands still while champions change, so that small losses cannot add up. A champion
    that is itself below the floor may be replaced by what is no worse: there is no way back up otherwise.

    Raises:
        ValueError: the two were not judged on the same number of images.
    """
    if len(champion.correct) != len(challenger.correct):
        raise ValueError(f"{len(champion.correct)} and {len(challenger.correct)} images cannot be compared in pairs")
    gained = int((challenger.correct & ~champion.correct).sum())
    lost = int((champion.correct & ~challenger.correct).sum())
    p_value = sign_test(gained, lost)
    better = p_value <= alpha
    floor = min(validation_floor, champion.validation_accuracy)
    sound = challenger.validation_accuracy >= floor  # not-a-number is never sound
    stream = (
        f"{_percent(challenger.stream_accuracy)} against {_percent(champion.stream_accuracy)} held out, "
        f"p = {p_value:.4f}, {'at most' if better else 'above'} {alpha:g} "
        f"(gains {gained}, loses {lost} of {len(champion.correct)} images)"
    )
    validation = (
        f"validation accuracy {_percent(challenger.validation_accuracy)}, "
        f"{'not below' if sound else 'below'} the floor of {_percent(floor)}"
    )
    # What decided comes first: where there is little room only that is shown.
    return Decision(better and sound, (validation, stream) if better and not sound else (stream, validation))


def sign_test(gained: int, lost: int) -> float:
    """Probability of at least `gained` heads in `gained + lost` throws of a fair coin."""
    return float(stats.binom.sf(gained - 1, gained + lost, 0.5))


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
