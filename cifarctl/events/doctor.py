"""Results of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check; `finding` is its result and, if the check failed, the remedy."""

    check: str
    ok: bool
    finding: str
