"""The watch: after a promotion the previous version keeps predicting, so that a rollback is possible."""

from __future__ import annotations

from cifarctl.learning.scored_model import ScoredModel
from cifarctl.learning.state import WatchState
from cifarctl.online.gate import Pairs
from cifarctl.settings import OnlineSettings

WATCH_SHARE = 0.1  # of `online.gate_alpha`: a needless rollback loses what was learned


class Watch:
    """Compares the version before with the champion, in windows of `online.watch` labelled images.

    A new window opens after every later promotion and every drift, with the same error level each time, so that every
    lineage can still be rolled back.
    """

    def __init__(self, state: WatchState, judged: ScoredModel, settings: OnlineSettings) -> None:
        """`judged` is the version that `state` names."""
        self.state, self.judged = state, judged
        self.alpha = settings.gate_alpha * WATCH_SHARE
        self._length = settings.watch

    @property
    def open(self) -> bool:
        """Whether a window is open."""
        return self.state.on

    @property
    def pairs(self) -> Pairs:
        """The present window, with the version before as the challenger."""
        return self.state.pairs

    @property
    def better(self) -> bool:
        """Whether the version before does significantly better than the champion."""
        return self.pairs.evidence >= 1 / self.alpha

    def add(self, pairs: Pairs) -> None:
        """Take in how both did on more images."""
        self.state.pairs += pairs

    def close_if_over(self) -> None:
        """End a window that is as long as it may be."""
        if len(self.pairs) >= self._length:
            self.state.on = False

    def reopen(self) -> None:
        """Open another window unless one is open."""
        if not self.state.on:
            self.state.pairs, self.state.on = Pairs(), True
