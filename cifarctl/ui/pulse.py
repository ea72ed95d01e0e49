"""When a log says again how things stand: now and then while they change, and once more when they have come to rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cifarctl.ui.widgets import Every


class Pulse:
    """Paces the status lines of a log, so that the last one of a busy time tells how it has ended."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """At most one line in so many seconds, but for one when things have come to rest."""
        self._every = Every(seconds, now)
        self._told: Hashable = None
        self._seen: Hashable = None
        self._told_at_rest = False

    def __call__(self, figures: Hashable, *, resting: bool) -> bool:
        """Whether to tell of these `figures` now; `resting`: nothing is left to be done.

        Figures that were told already are not told again. Things have come to rest where two looks in a row, `resting`
        both, find the same figures.
        """
        settled = resting and figures == self._seen
        self._seen = figures
        if figures == self._told:
            return False
        if not self._every() and (not settled or self._told_at_rest):
            return False
        self._told, self._told_at_rest = figures, resting
        return True
