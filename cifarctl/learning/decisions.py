"""What a learner decides about an alias: committed, then carried out; after a crash recognised, not done twice."""

from __future__ import annotations

import math
from collections.abc import Callable

from cifarctl.errors import VersionNotFound
from cifarctl.registry import Move, Registry, utc_now
from cifarctl.registry.history import Action


class Decisions:
    """The moves of one alias by one learner, and what it knows of those by others.

    A learner that goes on from a checkpoint decides again what was decided after that. Each decision says how much the
    learner had seen, so that it is known again. What is not decided again, as it would be where the stream has become
    another, is given up: the alias has then been moved by the learner before this one.
    """

    def __init__(self, registry: Registry, alias: str, epoch: int | None, commit: Callable[[Move], None]) -> None:
        """Take note of how things stand.

        Args:
            registry: holds the alias.
            alias: what is moved.
            epoch: as in `Registry.begin_epoch`, None where there are no other learners.
            commit: makes a decision known before it is carried out; raises Superseded where it does not count any more.

        Raises:
            VersionNotFound: the alias names nothing.
        """
        self._registry, self._alias, self._epoch, self._commit = registry, alias, epoch, commit
        found = registry.alias(alias)
        if found is None:
            raise VersionNotFound(f"the alias {alias} names no version; train one first: cifarctl train")
        self.version = found.version
        #: Generation of the newest move that is known.
        self.generation = found.generation
        #: Generation of the move that made the champion, which is an older one while decisions are made again.
        self.made = found.generation
        self._moves = len(registry.history(alias))  # and refusals, as far as they are known
        self._redo: list[Move] = []

    @property
    def redoing(self) -> bool:
        """Whether something is left that was decided before a crash."""
        return bool(self._redo)

    @property
    def unmoved(self) -> bool:
        """Whether the alias is where this learner believes that it is."""
        alias = self._registry.alias(self._alias)
        return alias is not None and alias.generation == self.generation

    @property
    def mover(self) -> str:
        """Who has moved the alias last."""
        moves = [move for move in self._registry.history(self._alias) if move.action != "reject"]
        return "the learner before this one" if moves and moves[-1].at is not None else "somebody else"

    @property
    def known(self) -> int:
        """How many moves and refusals are behind the learner, those to be decided again not counted."""
        return self._moves - len(self._redo)

    def since(self, moves: int) -> list[Move] | None:
        """What a learner has decided after the first so many moves; None where anybody else has moved the alias."""
        found = self._registry.history(self._alias)[moves:]
        return None if any(move.at is None for move in found) else found

    def redo(self, moves: list[Move]) -> None:
        """Expect these to be decided again, in this order."""
        self._redo = moves

    def again(self, action: Action, now: int) -> Move | None:
        """What was decided at `now` before a crash, where that is what is decided now; else the rest is given up."""
        if self._redo and (self._redo[0].action, self._redo[0].at) == (action, now):
            return self._redo.pop(0)
        self.give_up(before=math.inf)
        return None

    def give_up(self, *, before: float) -> None:
        """Leave alone what was to be decided again `before` that time and was not."""
        if self._redo and (self._redo[0].at or 0) < before:
            self._redo, self.generation = [], self.made

    def look(self) -> tuple[int, int] | None:
        """Version and generation of the alias where another has moved it; None while decisions are made again."""
        alias = self._registry.alias(self._alias)
        if alias is None or alias.generation == self.generation or self._redo:
            return None
        self._moves = len(self._registry.history(self._alias))
        return alias.version, alias.generation

    def carry_out(self, action: Action, version: int, why: str, *, champion: int, now: int) -> None:
        """Commit a decision about the `champion`, then do it.

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
