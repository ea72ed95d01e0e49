"""Checks of the surroundings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that `doctor` looked at; `finding` says what it found and, where it failed, what to do."""

    check: str
    ok: bool
    finding: str
