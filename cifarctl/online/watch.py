"""Watching a promotion: the version before goes on predicting in shadow, and may take over again."""

from __future__ import annotations

from typing import Generic, TypeVar

from cifarctl.online.gate import sign_test

LOOKS = 5  # verdicts asked for during a watch; each spends its part of the error allowed

PredictorT = TypeVar("PredictorT")


class Watch(Generic[PredictorT]):
    """Pairs of outcomes of the version before and the new one, over the next `images` labelled images.

    The error `alpha` is spent evenly over a few looks (Bonferroni), so that looking often does not cost a good version.
    """

    def __init__(self, previous: PredictorT, images: int, alpha: float) -> None:
        self.previous = previous
        self._images, self._alpha = images, alpha / LOOKS
        self._pairs = self._regained = self._lost = 0
        self._looks = 0

    def pair(self, before: bool, now: bool) -> None:
        """One labelled image: did the version before get it right, does the new one?"""
        self._pairs += 1
        self._regained += before and not now
        self._lost += now and not before

    def verdict(self) -> str | None:
        """Why to go back, an empty string where the watch ends well, None while it goes on."""
        look = min(self._pairs * LOOKS // self._images, LOOKS)
        if look > self._looks:
            self._looks = look
            p_value = sign_test(self._regained, self._lost)
            if p_value <= self._alpha:
                return (
                    f"of {self._pairs} labelled images since the promotion the version before alone gets "
                    f"{self._regained} right, the new one alone {self._lost} (p = {p_value:.2g})"
                )
        return "" if look == LOOKS else None
