"""When to print a status line: at intervals while figures change, and once more when they have settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cifarctl.ui.widgets import Every


class Pulse:
    """Limits the rate of status lines, but always lets the final figures of a busy period through."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """Allow one line per `seconds`, plus one when the figures have settled."""
        self._every = Every(seconds, now)
        self._printed: Hashable = None
        self._seen: Hashable = None
        self._printed_at_rest = False

    def __call__(self, figures: Hashable, *, resting: bool) -> bool:
        """Whether to print a line with these `figures` now; `resting`: no work is left.

        The same figures are never printed twice. Figures have settled once two consecutive calls have the same ones
        and the second is `resting`.
        """
        settled = resting and figures == self._seen
        self._seen = figures
        if figures == self._printed:
            return False
        if not self._every() and (not settled or self._printed_at_rest):
            return False
        self._printed, self._printed_at_rest = figures, resting
        return True
