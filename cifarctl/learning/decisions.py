"""A learner's decisions about an alias: committed first, then carried out, and never twice after a crash."""

from __future__ import annotations

import math
from collections.abc import Callable

from cifarctl.errors import VersionNotFound
from cifarctl.registry import Move, Registry, utc_now
from cifarctl.registry.history import Action


class Decisions:
    """The moves of one alias by one learner, and what it knows of moves by others.

    A learner that resumes from a checkpoint repeats the decisions made after it. Each decision records how much the
    learner had seen, so the repetition is recognised. A decision that is not repeated, for example because the stream
    was replaced, is given up: the alias then counts as moved by the previous learner.
    """

    def __init__(self, registry: Registry, alias: str, epoch: int | None, commit: Callable[[Move], None]) -> None:
        """Look up the present state.

        Args:
            registry: holds the alias.
            alias: the alias that is moved.
            epoch: as in `Registry.begin_epoch`, None where there are no other learners.
            commit: records a decision before it is carried out; raises Superseded if it no longer counts.

        Raises:
            VersionNotFound: the alias names nothing.
        """
        self._registry, self._alias, self._epoch, self._commit = registry, alias, epoch, commit
        found = registry.alias(alias)
        if found is None:
            raise VersionNotFound(f"the alias {alias} names no version; train one first: cifarctl train")
        self.version = found.version
        #: Generation of the newest known move.
        self.generation = found.generation
        #: Generation of the move that made the champion; older while decisions are being repeated.
        self.made = found.generation
        self._moves = len(registry.history(alias))  # known moves and rejections
        self._redo: list[Move] = []

    @property
    def redoing(self) -> bool:
        """Whether decisions from before a crash are still to be repeated."""
        return bool(self._redo)

    @property
    def unmoved(self) -> bool:
        """Whether the alias is where this learner believes it is."""
        alias = self._registry.alias(self._alias)
        return alias is not None and alias.generation == self.generation

    @property
    def mover(self) -> str:
        """Who moved the alias last."""
        moves = [move for move in self._registry.history(self._alias) if move.action != "reject"]
        return "the learner before this one" if moves and moves[-1].at is not None else "somebody else"

    @property
    def known(self) -> int:
        """Number of moves and rejections behind the learner, without those still to be repeated."""
        return self._moves - len(self._redo)

    def since(self, moves: int) -> list[Move] | None:
        """Decisions after the first `moves`; None if anybody else has moved the alias since."""
        found = self._registry.history(self._alias)[moves:]
        return None if any(move.at is None for move in found) else found

    def redo(self, moves: list[Move]) -> None:
        """Expect these decisions to be repeated, in this order."""
        self._redo = moves

    def again(self, action: Action, now: int) -> Move | None:
        """The decision made at `now` before a crash, if it is the same one; otherwise the rest is given up."""
        if self._redo and (self._redo[0].action, self._redo[0].at) == (action, now):
            return self._redo.pop(0)
        self.give_up(before=math.inf)
        return None

    def give_up(self, *, before: float) -> None:
        """Stop expecting the repetition of decisions dated `before` that time."""
        if self._redo and (self._redo[0].at or 0) < before:
            self._redo, self.generation = [], self.made

    def look(self) -> tuple[int, int] | None:
        """Version and generation of the alias if another party moved it; None while decisions are being repeated."""
        alias = self._registry.alias(self._alias)
        if alias is None or alias.generation == self.generation or self._redo:
            return None
        self._moves = len(self._registry.history(self._alias))
        return alias.version, alias.generation

    def carry_out(self, action: Action, version: int, why: str, *, champion: int, now: int) -> None:
        """Commit a decision about the `champion`, then carry it out.

        Raises:
            AliasConflict: somebody else has moved the alias.
            Superseded: another learner has taken over.
        """
        move = Move(
            time=utc_now().isoformat(timespec="milliseconds"),
            alias=self._alias,
            action=action,
            from_version=champion,
            to_version=version,
            who="learner",
            why=why,
            generation=self.generation + (action != "reject"),
            epoch=self._epoch,
            at=now,
        )
        self._commit(move)
        self.generation = self._registry.carry_out(move).generation
        self._moves += 1
