"""Aliases and their history, two records of the same moves: read, checked against each other, written, repaired.

A writer holds the registry's lock; readers need none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from cifarctl.errors import AliasConflict, AliasDamaged
from cifarctl.registry.aliases import (
    REPAIR,
    Alias,
    Mark,
    check_alias_name,
    parse_mark,
    read_mark,
    read_text,
    read_texts,
    write_mark,
)
from cifarctl.registry.files import make_directory, os_errors, replace_file, sync_directory, token
from cifarctl.registry.history import Move, Torn, append_move, moves_in, reached, read_lines, without
from cifarctl.registry.repair import Fault, Standing, names, standing

DAMAGED = "damaged"
#: Seconds between the history's line of an alias's first move and the alias's file: a sync of the disk or two.
FIRST_MOVE_S = 1.0
LOOK_S = 0.05


class Pointers:
    """The aliases of a registry, and the moves that led there."""

    def __init__(self, registry: Path, clock: Callable[[], datetime]) -> None:
        self._aliases = registry / "aliases"
        self._history = registry / "history.jsonl"
        self._damaged = registry / DAMAGED
        self._clock = clock

    @property
    def folder(self) -> Path:
        """The folder of the aliases' files."""
        return self._aliases

    def now(self) -> str:
        """The present time as the files hold it: ISO 8601, UTC."""
        return self._clock().astimezone(timezone.utc).isoformat(timespec="milliseconds")

    def alias(self, name: str) -> Alias | None:
        """Where an alias points; None when it was never set, or was removed.

        Raises:
            AliasDamaged: the alias was set, but its file is missing or damaged.
            RegistryError: no alias may have that name, or its file cannot be read.
        """
        check_alias_name(name)
        path = self._aliases / name
        mark = read_mark(path)
        if mark is None and (found := self._without_file(name)).lost:
            mark = read_mark(path)
            for _ in _looks():
                if mark is not None or not found.first:
                    break
                mark = read_mark(path)
            if mark is None:
                raise AliasDamaged(f"{path}: missing, though the history records it; {REPAIR}")
        return mark if isinstance(mark, Alias) else None

    def aliases(self) -> dict[str, Alias]:
        """All aliases whose files can be read."""
        marks = {name: parse_mark(text, name) for name, text in read_texts(self._aliases).items()}
        return {name: mark for name, mark in marks.items() if isinstance(mark, Alias)}

    def moves(self) -> list[Move]:
        """The moves that took place and the refusals, oldest first, of all aliases."""
        found, lines = self._look()
        return reached(moves_in(lines), {name: each.generation for name, each in found.items()})

    def mentioned(self) -> set[int]:
        """Versions in any line of the history, whether or not the move took place."""
        moves = moves_in(read_lines(self._history))
        return {version for move in moves for version in (move.from_version, move.to_version) if version is not None}

    def epoch(self, aliases: Set[str]) -> int:
        """The highest epoch of a learner that has moved one of these aliases; 0 where there is none."""
        marks = (found.mark for name, found in self._look()[0].items() if name in aliases)
        return max((mark.epoch or 0 for mark in marks if mark is not None), default=0)

    def disagreements(self, *, locked: bool = False) -> list[Fault]:
        """Aliases whose file and history disagree, so that it is uncertain what they name or have named.

        `locked` says that the caller holds the lock. Otherwise a writer may be between the two files just now, so only
        aliases that disagree at two looks count.
        """
        found = self._disagreements()
        if found and not locked:
            found = _in_both(found, self._disagreements())
            for _ in _looks():
                if not any(standing.first for standing in found.values()):
                    break
                found = _in_both(found, self._disagreements())
        return [
            Fault(self._aliases / name, standing.problem or "", standing.remedy, curable=standing.mark is not None)
            for name, standing in found.items()
        ]

    def torn(self) -> list[Fault]:
        """A fault for the lines of the history that are not moves, if there are any."""
        numbers = [str(line.number) for line in read_lines(self._history) if isinstance(line, Torn)]
        if not numbers:
            return []
        which = f"line {numbers[0]} is not a move" if len(numbers) == 1 else f"lines {', '.join(numbers)} are not moves"
        remedy = f"`cifarctl registry verify --repair` sets {'it' if len(numbers) == 1 else 'them'} aside"
        return [Fault(self._history, f"{which}: cut short or damaged", remedy, curable=True)]

    def repair(self) -> None:
        """Make aliases and history agree, and set torn lines aside; see `registry.repair`."""
        for name, found in self._look()[0].items():
            if found.mark is not None:  # otherwise the version that it named is unknown
                self._agree(name)
        torn = [line for line in read_lines(self._history) if isinstance(line, Torn)]
        if torn:
            self._keep(self._history)
            replace_file(self._history, without(self._history, torn))

    def expect(self, name: str, generation: int | None, epoch: int | None = None) -> Mark | None:
        """The current alias, if it is the one that the caller expects; makes file and history agree.

        If the version that an alias named is unknown, it names nothing.

        Raises:
            AliasConflict: it has another generation, or a newer epoch.
        """
        check_alias_name(name)
        current = self._agree(name)
        actual = current.generation if isinstance(current, Alias) else 0
        if generation is not None and generation != actual:
            where = f"names version {current.version}" if isinstance(current, Alias) else "is not set"
            raise AliasConflict(
                f"alias {name} {where} at generation {actual}, not {generation}: somebody moved it first; "
                "see `cifarctl registry history` and decide again"
            )
        if epoch is not None and current is not None and epoch < (current.epoch or 0):
            raise AliasConflict(
                f"alias {name} was moved in epoch {current.epoch}, epoch {epoch} is over: "
                "another learner has taken over, stop this one"
            )
        return current

    def move(
        self,
        action: Literal["promote", "rollback", "remove"],
        name: str,
        before: Mark | None,
        version: int | None,
        who: str,
        why: str,
        epoch: int | None = None,
        at: int | None = None,
    ) -> Mark:
        """Write a move, first to the history; `before` is the mark that `expect` returned."""
        after = Mark(
            name=name,
            version=version,
            generation=1 if before is None else before.generation + 1,
            moved=self.now(),
            epoch=before.epoch if before is not None and epoch is None else epoch,
        )
        self.note(
            Move(
                time=after.moved,
                alias=name,
                action=action,
                from_version=None if before is None else before.version,
                to_version=version,
                who=who,
                why=why,
                generation=after.generation,
                epoch=epoch,
                at=at,
            )
        )
        write_mark(self._aliases, after)
        return after

    def point(
        self,
        action: Literal["promote", "rollback"],
        name: str,
        before: Mark | None,
        version: int,
        who: str,
        why: str,
        epoch: int | None = None,
        at: int | None = None,
    ) -> Alias:
        """As `move`, to a version."""
        after = self.move(action, name, before, version, who, why, epoch, at)
        return Alias(**after.model_dump())

    def note(self, move: Move) -> None:
        """Write to the history alone: a refusal."""
        append_move(self._history, move)

    def _without_file(self, name: str) -> Standing:
        """The standing of an alias without a file."""
        return standing(name, None, read_lines(self._history, about=name), self.now())

    def _look(self) -> tuple[dict[str, Standing], list[Move | Torn]]:
        """The standing of every alias, and the lines of the history."""
        texts, now = read_texts(self._aliases), self.now()
        lines = read_lines(self._history)  # after the aliases: a move made in between counts as not yet reached
        known = {move.alias for move in moves_in(lines)}
        for name in texts.keys() - known:
            if (self._aliases / name).is_dir():  # a user's own folder, such as a copy
                del texts[name]
        return {name: standing(name, texts.get(name), lines, now) for name in names(texts, lines)}, lines

    def _disagreements(self) -> dict[str, Standing]:
        return {name: found for name, found in self._look()[0].items() if found.problem is not None}

    def _agree(self, name: str) -> Mark | None:
        """The mark of an alias, after making file and history agree.

        If the version that the alias named is unknown, its mark names nothing, with a generation above any it had.
        """
        found = standing(name, read_text(self._aliases / name), read_lines(self._history), self.now())
        if found.problem is None:
            return found.mark
        if found.mark is None:
            self._keep(self._aliases / name)
            return Mark(name=name, version=None, generation=max(1, found.generation), moved=self.now())
        if found.move is not None:
            append_move(self._history, found.move)
        self._keep(self._aliases / name)
        write_mark(self._aliases, found.mark)
        return found.mark

    def _keep(self, path: Path) -> None:
        """Keep a copy of a file that is to be replaced, unless it is empty; anything but a file is moved away."""
        kept = self._damaged / f"{path.name}-{self._clock():%Y%m%dT%H%M%S}-{token('')[:6]}"
        with os_errors(path):
            if path.is_file():
                if content := path.read_bytes():
                    replace_file(kept, content)
            elif os.path.lexists(path):
                make_directory(self._damaged)
                path.rename(kept)
                sync_directory(self._damaged)


def _looks() -> Iterator[None]:
    """Looks, with pauses, for as long as a first move may be under way."""
    until = time.monotonic() + FIRST_MOVE_S
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        yield


def _in_both(one: Mapping[str, Standing], other: Mapping[str, Standing]) -> dict[str, Standing]:
    """The standings with the same problem in both."""
    return {name: found for name, found in one.items() if name in other and other[name].problem == found.problem}
