"""Whether aliases and their history agree, and how to make them agree again without losing anything.

Both files record every move, the history first. So each can be rebuilt from the other as far as that is readable:

- an alias whose file is missing or damaged gets the state in the last complete line of the history;
- a move that the history has lost is added to it again, from the alias's file;
- an alias whose generation went back (its file was deleted and set anew, or came from a backup) continues above the
  highest generation in the history.

A generation never goes back: where a torn line may have been a later move, its generation is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarctl.registry.aliases import REPAIR, Mark, generation_in, is_alias_name, parse_mark, typed
from cifarctl.registry.history import Action, Move, Torn, moves_in, reached

WHO = "repair"


@dataclass(frozen=True)
class Fault:
    """A fault of the registry: the file, the problem and the remedy.

    `curable` says whether a repair can correct it without a human decision.
    """

    path: Path
    problem: str
    remedy: str
    curable: bool

    @property
    def finding(self) -> str:
        """The file and the problem."""
        return f"{self.path}: {self.problem}"

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"


@dataclass(frozen=True)
class Standing:
    """How the file of an alias compares with the history.

    Attributes:
        generation: the alias's generation, as far as it is known.
        mark: the correct content of its file; None where that is unknown, or the alias was never set.
        move: the line that the history lacks.
        problem: the disagreement, None if there is none.
        remedy: what to do about it.
        lost: whether the alias was set, but its file is missing or damaged.
        first: whether the alias's first move may be under way: it is in the history, and the file is not there yet.
    """

    generation: int
    mark: Mark | None
    move: Move | None = None
    problem: str | None = None
    remedy: str = ""
    lost: bool = False
    first: bool = False


def standing(name: str, text: bytes | None, lines: Sequence[Move | Torn], now: str) -> Standing:
    """The standing of an alias, given the content of its file (None = no file) and the lines of the history."""
    moves = moves_in(lines, name)
    mark = None if text is None else parse_mark(text, name)
    return _lost(name, text, lines, now) if mark is None else _readable(mark, moves, now)


def names(texts: Mapping[str, bytes], lines: Sequence[Move | Torn]) -> list[str]:
    """Every alias that has a file or a history."""
    return sorted({*texts, *(move.alias for move in moves_in(lines) if is_alias_name(move.alias))})


def _readable(mark: Mark, moves: Sequence[Move], now: str) -> Standing:
    taken = [move for move in moves if move.action != "reject"]
    said = {move.generation: move.to_version for move in taken}  # of several with one generation the last counts
    written = max(said, default=0)
    refused = max((move.generation for move in moves if move.action == "reject"), default=0)
    last = taken[-1].to_version if taken else None
    if mark.generation > written:
        problem = f"at generation {mark.generation}, which the history does not record"
        move = _move(mark, last, now, "the history had lost this move")
        return Standing(mark.generation, mark, move, problem, _writes("that line"))
    # A history one line ahead of the file holds a move that a crash prevented.
    behind = mark.generation < max(written - 1, refused)
    if not behind and said.get(mark.generation) == mark.version:
        return Standing(mark.generation, mark)
    highest = max(written, refused)
    problem = (
        f"at generation {mark.generation}, but the history knows {highest}"
        if behind
        else f"names {_named(mark.version)}, but the history says {_named(said.get(mark.generation))} "
        f"of generation {mark.generation}"
    )
    after = mark.model_copy(update={"generation": highest + 1, "moved": now})
    why = f"{mark.name} was at generation {mark.generation} beside a history that knew {highest}"
    generation = highest if behind else mark.generation
    return Standing(generation, after, _move(after, last, now, why), problem, _writes("one above both"))


def _lost(name: str, text: bytes | None, lines: Sequence[Move | Torn], now: str) -> Standing:
    """The standing of an alias without a readable file."""
    moves = moves_in(lines, name)
    written = max((move.generation for move in moves), default=0)
    happened = [move for move in reached(moves, {name: written}) if move.action != "reject"]
    what = "missing" if text is None else "not an alias file"
    if not happened:
        if text is None:
            return Standing(0, None)
        torn = sum(isinstance(line, Torn) for line in lines)
        problem = f"{what}, and the history does not know {name}"
        remedy = f"set it by `cifarctl registry promote VERSION --alias {name}`"
        return Standing(generation_in(text) + torn, None, None, problem, remedy, lost=True)
    last = happened[-1]
    place = max(index for index, line in enumerate(lines) if line is last)
    torn = sum(isinstance(line, Torn) for line in lines[place + 1 :])  # each may have been one more move
    highest = max(written, generation_in(text or b""), last.generation + torn)
    # It is unknown what a later generation named: a process that saw it must see that the alias has moved since.
    generation = last.generation if highest == last.generation else highest + 1
    epochs = [move.epoch for move in happened if move.epoch is not None]
    mark = typed(
        Mark(
            name=name,
            version=last.to_version,
            generation=generation,
            moved=last.time if generation == last.generation else now,
            epoch=epochs[-1] if epochs else None,
        )
    )
    move = None
    if generation != last.generation:
        why = f"the file of {name} was {what}, and lines of the history after its last move were torn"
        move = _move(mark, last.to_version, now, why)
    problem = f"{what}, though the history says {_named(last.to_version)}, generation {last.generation}"
    # The file of the first move is there before a second one enters the history.
    return Standing(highest, mark, move, problem, REPAIR, lost=True, first=text is None and highest == 1)


def _move(mark: Mark, before: int | None, now: str, why: str) -> Move:
    action: Action = "remove" if mark.version is None else "promote"
    return Move(
        time=now,
        alias=mark.name,
        action=action,
        from_version=before,
        to_version=mark.version,
        who=WHO,
        why=why,
        generation=mark.generation,
        epoch=mark.epoch,
    )


def _named(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"


def _writes(what: str) -> str:
    return f"`cifarctl registry verify --repair` writes {what}"
