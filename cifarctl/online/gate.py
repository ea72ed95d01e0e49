"""The gate: the only way into production. Pure functions of what two models did on the same images.

Which of two models is better is judged on *prequential pairs*: labelled images that both predicted before either
learned from them. Under the hypothesis that the challenger is no better, a pair that just one of the two gets right is
a coin that falls to the challenger with probability at most one half. Whoever bets on the challenger at fair odds then
cannot expect to gain, whenever they look: the chance that the capital ever grows `1 / alpha`-fold is at most `alpha`
(Ville 1939), however often it is looked at. Testing by betting: Shafer 2021, Testing by Betting, JRSS A 184(2); a fixed
mixture of bets instead of one: Robbins 1970, Statistical Methods Related to the Law of the Iterated Logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Bets at once: that the challenger wins such a share of the pairs that tell, with such a part of the capital. Chosen
#: by simulation (tests/test_gate.py) for challengers that are 5 to 15 points better where one image in five tells.
BETS = ((0.62, 0.60), (0.70, 0.25), (0.85, 0.15))
MIN_CHANGE = 0.01  # of the answers, below which a snapshot is not worth a version of its own
MIN_ESTIMATED_GAIN = 0.03  # an estimate without labels may err by as much


@dataclass(frozen=True)
class Pairs:
    """How champion and challenger did on the same images, as counts of images."""

    both: int = 0
    gained: int = 0  # by the challenger alone
    lost: int = 0  # by the champion alone
    neither: int = 0

    @classmethod
    def of(cls, champion: NDArray[np.bool_], challenger: NDArray[np.bool_]) -> Pairs:
        """From outcomes (N,) on the same images.

        Raises:
            ValueError: the two were not judged on the same number of images.
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
        """The same with the roles exchanged."""
        return Pairs(self.both, self.lost, self.gained, self.neither)

    @property
    def champion(self) -> float | None:
        """The champion's accuracy; None of no images."""
        return (self.both + self.lost) / len(self) if len(self) else None

    @property
    def challenger(self) -> float | None:
        """The challenger's accuracy; None of no images."""
        return (self.both + self.gained) / len(self) if len(self) else None

    @property
    def evidence(self) -> float:
        """How many times the capital of who bets on the challenger has grown; never above 1e300."""
        grown = [
            math.log(part) + self.gained * math.log(2 * wins) + self.lost * math.log(2 * (1 - wins))
            for wins, part in BETS
        ]
        most = max(grown)
        return math.exp(min(690.0, most + math.log(sum(math.exp(one - most) for one in grown))))

    def __str__(self) -> str:
        if not len(self):
            return "no images yet that both have predicted"
        return (
            f"{percent(self.challenger)} against {percent(self.champion)} of {len(self):,} images "
            f"(gains {self.gained}, loses {self.lost})"
        )


@dataclass(frozen=True)
class Guard:
    """What champion and challenger get of the validation images; `waived` says why these do not count."""

    champion: float | None
    challenger: float | None
    floor: float
    waived: str | None = None

    @classmethod
    def none(cls, reason: str = "") -> Guard:
        """Validation images that do not count, so that nobody need be measured on them."""
        return cls(None, None, 0.0, reason)

    @property
    def holds(self) -> bool:
        """Whether the challenger is sound.

        A champion that is itself below the floor may be replaced by what is no worse: there is no way back up
        otherwise.
        """
        if self.challenger is None or not math.isfinite(self.challenger):
            return self.challenger is None and self.waived is not None
        return self.waived is not None or self.challenger >= self._lowest

    @property
    def _lowest(self) -> float:
        return self.floor if self.champion is None else min(self.floor, self.champion)

    def __str__(self) -> str:
        if self.waived is not None:
            return f"the validation images do not count: {self.waived}"
        verdict = "not below" if self.holds else "below"
        return f"validation accuracy {percent(self.challenger)}, {verdict} the floor of {percent(self._lowest)}"


@dataclass(frozen=True)
class Decision:
    """The verdict and, whatever it is, the figures behind it."""

    promote: bool
    reasons: tuple[str, ...]


def spend(alpha: float, number: int) -> float:
    """The part of `alpha` for trial `number` (1, 2, ...): the parts of all trials that ever come add up to `alpha`."""
    return alpha * 6 / (math.pi * number) ** 2


def decide(pairs: Pairs, guard: Guard, *, alpha: float, estimated: bool = False) -> Decision:
    """Whether a challenger on trial shall replace the champion, by all prequential pairs of the trial so far.

    May be asked after every pair: a challenger that is no better is promoted at any time with a chance of at most
    `alpha`. Of pairs that are `estimated` without labels that is not certain, so a small gain does not do.
    """
    better = pairs.evidence >= 1 / alpha
    stream = f"{pairs}, evidence {amount(pairs.evidence)} of {amount(1 / alpha)}"
    if estimated:
        better = better and pairs.gained - pairs.lost >= MIN_ESTIMATED_GAIN * len(pairs)
        stream = f"estimated without labels: {stream}"
    # What decided comes first: where there is little room only that is shown.
    told = (str(guard), stream) if better and not guard.holds else (stream, str(guard))
    return Decision(better and guard.holds, told)


def follow(held_out: Pairs, guard: Guard, *, changed: float, alpha: float, estimated: bool = False) -> Decision:
    """Whether the next snapshot of a lineage that has won its trial may follow: it may unless something is wrong.

    A significant loss on the images held out from its training is wrong, by the same test with the roles exchanged; so
    is validation accuracy below the guard's floor. `changed` is the share of recent images on which its predictions
    differ: too few are not worth a version. `estimated`: the pairs are of recent images, estimated without labels.
    """
    if changed < MIN_CHANGE:
        return Decision(
            False, (f"predictions changed on only {percent(changed)} of recent images: not worth a version",)
        )
    fallen = held_out.swapped().evidence >= 1 / alpha
    loss = "a significant loss" if fallen else "lineage already trusted; no significant loss"
    stream = f"{loss} on held-out images: {held_out}" if len(held_out) else "no held-out images yet"
    if estimated:
        stream = f"{loss}, estimated without labels: {held_out}"
    told = (str(guard), stream) if not guard.holds else (stream, str(guard))
    return Decision(not fallen and guard.holds, told)


def percent(share: float | None) -> str:
    """A share as the reasons say it."""
    return "none" if share is None else f"{share:.1%}"


def amount(evidence: float) -> str:
    """A growth of capital as the reasons say it."""
    return f"{evidence:.1f}" if evidence < 1000 else "over 1,000"
