"""The history of alias moves and of refusals to move: ``history.jsonl``, written ahead of the alias itself.

A move is appended and synced before the alias file is replaced. A crash between the two leaves a line whose
generation the alias never reached: the move did not happen, and readers skip it. The next move takes the same
generation, so of several lines with one generation the last one counts. Only without any alias file does
the last line count in its place: see `repair`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cifarctl.registry.files import append_line, os_errors

Action = Literal["promote", "rollback", "remove", "reject"]


class Move(BaseModel):
    """One move of an alias; `remove` removes it, `reject` is a challenger that the gate refused: nothing moves."""

    model_config = ConfigDict(frozen=True)

    time: str = Field(description="ISO 8601, UTC")
    alias: str
    action: Action
    from_version: int | None
    to_version: int | None
    who: str
    why: str
    generation: int
    epoch: int | None = None
    at: int | None = Field(None, description="of a learner: images and labels that it had seen")

    def same(self, other: Move) -> bool:
        """Whether both record the same decision, whenever it was carried out."""
        return self.model_copy(update={"time": other.time, "from_version": other.from_version}) == other

    @field_validator("time")
    @classmethod
    def _with_zone(cls, time: str) -> str:
        if datetime.fromisoformat(time).tzinfo is None:
            raise ValueError("the time needs its zone")
        return time


@dataclass(frozen=True)
class Torn:
    """A line that is not a move: a crash cut it short, or it was damaged."""

    number: int
    text: bytes


def append_move(path: Path, move: Move) -> None:
    """Add `move` durably.

    Raises:
        RegistryError: the file cannot be written.
    """
    append_line(path, move.model_dump_json().encode())


def read_lines(path: Path, about: str = "") -> list[Move | Torn]:
    """Every line that contains the text `about`, in the order of the file; also moves that no alias reached.

    Raises:
        RegistryError: the file cannot be read.
    """
    with os_errors(path):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return []
    lines: list[Move | Torn] = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if line.strip() and about.encode() in line:
            try:
                lines.append(Move.model_validate_json(line))
            except ValidationError:  # a crash tore this line before its move took place, or it was damaged since
                lines.append(Torn(number, line))
    return lines


def without(path: Path, torn: Iterable[Torn]) -> bytes:
    """The content of the file without these lines.

    Raises:
        RegistryError: the file cannot be read.
    """
    with os_errors(path):
        lines = path.read_bytes().split(b"\n")
    numbers = {line.number for line in torn}
    kept = [line for number, line in enumerate(lines, start=1) if number not in numbers and line.strip()]
    return b"".join(line + b"\n" for line in kept)


def moves_in(lines: Iterable[Move | Torn], alias: str | None = None) -> list[Move]:
    """The moves among `lines`, of one alias or of all."""
    return [line for line in lines if isinstance(line, Move) and alias in {None, line.alias}]


def reached(moves: Iterable[Move], generations: Mapping[str, int]) -> list[Move]:
    """The moves that took place and all refusals, oldest first, given the generation that each alias has."""
    found = list(moves)
    last = {(move.alias, move.generation): index for index, move in enumerate(found) if move.action != "reject"}
    return [
        move
        for index, move in enumerate(found)
        if move.action == "reject"
        or (last[move.alias, move.generation] == index and move.generation <= generations.get(move.alias, 0))
    ]


def stack(moves: Iterable[Move]) -> list[int]:
    """Versions that rollbacks of one alias walk back through, the present one last.

    A promotion pushes; a rollback pops down to the version that it went back to. After a removal the stack is empty.
    """
    versions: list[int] = []
    for move in moves:
        if move.action == "reject":
            continue
        if move.to_version is None:
            versions.clear()
            continue
        if move.action == "rollback":
            while versions and versions[-1] != move.to_version:
                versions.pop()
        if not versions or versions[-1] != move.to_version:
            versions.append(move.to_version)
    return versions


def rollback_target(moves: Iterable[Move], exists: Callable[[int], bool]) -> int | None:
    """The version that the next rollback of one alias goes to; None when there is nothing to go back to."""
    versions = stack(moves)
    earlier = reversed(versions[:-1])
    return next((version for version in earlier if version != versions[-1] and exists(version)), None)
