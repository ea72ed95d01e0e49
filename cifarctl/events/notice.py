"""Facts that belong to no flow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """Something that a person should know although the work goes on."""

    message: str


@dataclass(frozen=True)
class Waiting:
    """The broker does not answer; the work resumes by itself."""

    reason: str
