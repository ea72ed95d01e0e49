"""Timestamps that give no latency: wrong clocks, and how far off they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cifarctl import events
from cifarctl.tally import LONGEST_MS, SKEW_MS

DAY_S = 86_400


class Clocks:
    """Reports each kind of fault in the images' timestamps once: such images are left out of the latencies."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, batch: events.BatchServed) -> Iterator[events.Notice]:
        """Notices of the faults that a batch is the first to show."""
        latency = batch.latency_ms
        if (ahead := latency[latency < -SKEW_MS]).size and self._first("ahead"):
            yield events.Notice(
                f"the producer's clock is {_span(-ahead.min())} ahead of this one: such images are left out of the "
                "latencies; synchronise both clocks with NTP, or correct the producer's timestamps"
            )
        if (old := latency[latency >= LONGEST_MS]).size and self._first("old"):
            yield events.Notice(
                f"an image was produced {_span(old.max())} ago, by its timestamp: images older than "
                f"{_span(LONGEST_MS)} are left out of the latencies; check the producer's clock and timestamps"
            )
        if np.isnan(latency).any() and self._first("none"):
            yield events.Notice("images come without a timestamp: they are left out of the latencies")

    def _first(self, fault: str) -> bool:
        if fault in self._told:
            return False
        self._told.add(fault)
        return True


def _span(milliseconds: float) -> str:
    """``3,600 s``, or days where that is longer than two of them."""
    seconds = milliseconds / 1000
    return f"{seconds:,.0f} s" if seconds < 2 * DAY_S else f"{seconds / DAY_S:,.0f} days"
