"""Events that any flow may yield."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """A message for the user; the work continues."""

    message: str


@dataclass(frozen=True)
class Waiting:
    """The broker does not respond; the work resumes when it does."""

    reason: str
