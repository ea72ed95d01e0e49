"""The gate: an anytime-valid sequential test that decides promotions. All functions are pure.

Champion and challenger are compared on *prequential pairs*: labelled images that both predicted before either learned
from them. A pair is discordant if only one of the two is right. Under the null hypothesis that the challenger is no
better, it wins a discordant pair with probability at most one half. The e-value is the capital of a bet on the
challenger at fair odds, starting at 1. Under the null hypothesis it is a supermartingale, so the probability that it
ever reaches `1 / alpha` is at most `alpha` (Ville's inequality, 1939), even if it is checked after every pair. Sources:
Shafer 2021, Testing by Betting, JRSS A 184(2); Robbins 1970, Statistical Methods Related to the Law of the Iterated
Logarithm (mixtures of bets).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The mixture of bets: (assumed probability that the challenger wins a discordant pair, fraction of the capital).
#: Chosen by simulation (tests/unit/online/test_gate.py) for challengers that are 5 to 15 percentage points better when
#: one pair in five is discordant.
BETS = ((0.62, 0.60), (0.70, 0.25), (0.85, 0.15))
# The two below are hand-chosen.
MIN_CHANGE = 0.01  # fraction of changed predictions for a new version; lower: more versions that hardly differ
MIN_ESTIMATED_GAIN = 0.03  # gain required of estimates without labels, which err by a few percentage points


@dataclass(frozen=True)
class Pairs:
    """Paired outcomes of champion and challenger: how many images which of them classified correctly."""

    both: int = 0
    gained: int = 0  # only the challenger is right
    lost: int = 0  # only the champion is right
    neither: int = 0

    @classmethod
    def of(cls, champion: NDArray[np.bool_], challenger: NDArray[np.bool_]) -> Pairs:
        """Count outcomes (N,), True = right, on the same images.

        Raises:
            ValueError: the arrays differ in length.
        """
        if len(champion) != len(challenger):
            raise ValueError(f"{len(champion)} and {len(challenger)} images cannot be compared in pairs")
        return cls(
            int((champion & challenger).sum()),
            int((challenger & ~champion).sum()),
            int((champion & ~challenger).sum()),
            int((~champion & ~challenger).sum()),
        )

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(
            self.both + other.both, self.gained + other.gained, self.lost + other.lost, self.neither + other.neither
        )

    def __len__(self) -> int:
        return self.both + self.gained + self.lost + self.neither

    def swapped(self) -> Pairs:
        """The same pairs with the roles exchanged."""
        return Pairs(self.both, self.lost, self.gained, self.neither)

    @property
    def champion(self) -> float | None:
        """The champion's accuracy; None without images."""
        return (self.both + self.lost) / len(self) if len(self) else None

    @property
    def challenger(self) -> float | None:
        """The challenger's accuracy; None without images."""
        return (self.both + self.gained) / len(self) if len(self) else None

    @property
    def evidence(self) -> float:
        """The e-value against "the challenger is no better"; capped below 1e300."""
        log_capitals = [
            math.log(part) + self.gained * math.log(2 * wins) + self.lost * math.log(2 * (1 - wins))
            for wins, part in BETS
        ]
        highest = max(log_capitals)
        return math.exp(min(690.0, highest + math.log(sum(math.exp(one - highest) for one in log_capitals))))

    def __str__(self) -> str:
        if not len(self):
            return "no images predicted by both yet"
        return (
            f"{percent(self.challenger)} against {percent(self.champion)} on {len(self):,} images "
            f"({self.gained} gained, {self.lost} lost)"
        )


@dataclass(frozen=True)
class Guard:
    """Validation accuracies of champion and challenger, and the `floor` below which the challenger is rejected.

    `waived` is the reason why the check does not apply, None if it does.
    """

    champion: float | None
    challenger: float | None
    floor: float
    waived: str | None = None

    @classmethod
    def none(cls, reason: str = "") -> Guard:
        """A waived check without measurements."""
        return cls(None, None, 0.0, reason)

    @property
    def holds(self) -> bool:
        """Whether the challenger passes.

        If the champion itself is below the floor, a challenger that is no worse than the champion passes; otherwise
        accuracy could never recover.
        """
        if self.challenger is None or not math.isfinite(self.challenger):
            return self.challenger is None and self.waived is not None
        return self.waived is not None or self.challenger >= self._lowest

    @property
    def _lowest(self) -> float:
        return self.floor if self.champion is None else min(self.floor, self.champion)

    def __str__(self) -> str:
        if self.waived is not None:
            return f"validation check waived: {self.waived}"
        verdict = "not below" if self.holds else "below"
        return f"validation accuracy {percent(self.challenger)}, {verdict} the floor of {percent(self._lowest)}"


@dataclass(frozen=True)
class Decision:
    """A decision and its reasons, the decisive one first."""

    promote: bool
    reasons: tuple[str, ...]


def spend(alpha: float, number: int) -> float:
    """The significance level of trial `number` (1, 2, ...): alpha spending; all levels sum to `alpha`."""
    return alpha * 6 / (math.pi * number) ** 2


def decide(pairs: Pairs, guard: Guard, *, alpha: float, estimated: bool = False) -> Decision:
    """Decide whether the challenger on trial replaces the champion, from all prequential pairs of the trial so far.

    It may be called after every pair: the probability of ever promoting a challenger that is no better is at most
    `alpha`. This guarantee does not cover pairs that are `estimated` without labels, which must also show a gain of at
    least `MIN_ESTIMATED_GAIN`.
    """
    better = pairs.evidence >= 1 / alpha
    stream = f"{pairs}, e-value {amount(pairs.evidence)} of {amount(1 / alpha)}"
    if estimated:
        better = better and pairs.gained - pairs.lost >= MIN_ESTIMATED_GAIN * len(pairs)
        stream = f"estimated without labels: {stream}"
    # The decisive reason comes first: a narrow terminal shows only that.
    reasons = (str(guard), stream) if better and not guard.holds else (stream, str(guard))
    return Decision(better and guard.holds, reasons)


def follow(held_out: Pairs, guard: Guard, *, changed: float, alpha: float, estimated: bool = False) -> Decision:
    """Decide whether the next snapshot of a lineage that has won its trial becomes the champion.

    It is rejected for a significant loss on held-out images (the same test with the roles exchanged), or for validation
    accuracy below the guard's floor, or if it hardly differs from the champion.

    Args:
        held_out: pairs on images that it was not trained on.
        guard: validation accuracies.
        changed: fraction of recent images on which the two predict differently; see `MIN_CHANGE`.
        alpha: significance level of the loss.
        estimated: the pairs are estimated on unlabelled recent images.
    """
    if changed < MIN_CHANGE:
        return Decision(
            False, (f"predictions changed on only {percent(changed)} of recent images: not worth a version",)
        )
    worse = held_out.swapped().evidence >= 1 / alpha
    loss = "a significant loss" if worse else "lineage already trusted; no significant loss"
    stream = f"{loss} on held-out images: {held_out}" if len(held_out) else "no held-out images yet"
    if estimated:
        stream = f"{loss}, estimated without labels: {held_out}"
    reasons = (str(guard), stream) if not guard.holds else (stream, str(guard))
    return Decision(not worse and guard.holds, reasons)


def percent(share: float | None) -> str:
    """A fraction as text for reasons."""
    return "none" if share is None else f"{share:.1%}"


def amount(evidence: float) -> str:
    """An e-value as text for reasons."""
    return f"{evidence:.1f}" if evidence < 1000 else "over 1,000"
