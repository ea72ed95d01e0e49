"""The canary: the snapshot on trial as a version of its own, which an alias names for as long as its trial lasts."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from torch import nn

from cifarctl.errors import AliasConflict, RegistryError
from cifarctl.registry import Registry
from cifarctl.registry.aliases import canary_of
from cifarctl.registry.loading import to_bytes

WHO = "learner"


class CanaryAlias:
    """What the learner does with the alias of the version on trial, which is nobody else's.

    `serve` lets that version answer a share of the stream. No decision depends on any of this.
    """

    def __init__(self, registry: Registry, alias: str, *, wanted: bool, epoch: int | None) -> None:
        """For what is on trial against the version that `alias` names; only where it is `wanted` one is shown.

        `epoch` is the learner's: what one of a newer epoch shows is left alone.
        """
        self._registry, self._alias, self.wanted, self._epoch = registry, canary_of(alias), wanted, epoch
        self._newest: int | None = None  # that has ever been shown
        self._shown = False  # whether the alias names it

    def take_over(self, model: nn.Module | None, champion: int) -> None:
        """What another learner has left: it stays where `version_of` knows it, and is withdrawn otherwise."""
        alias = self._registry.alias(self._alias)
        moves = self._registry.history(self._alias)
        if self.wanted:
            self._newest = next((move.to_version for move in reversed(moves) if move.to_version is not None), None)
        if alias is None or moves[-1].who != WHO:  # somebody's own
            return
        self._shown = True
        if model is None or self.version_of(model, champion) != alias.version:
            self.withdraw("left by a learner that was killed")
        else:
            self.show(alias.version, "taken over from a learner that was killed")

    def version_of(self, model: nn.Module, champion: int) -> int | None:
        """The version shown last if it is this very model, on trial against `champion`, so need not be published again.

        None where it is another one, is no longer there or is damaged.
        """
        if self._newest is None:
            return None
        try:
            manifest = self._registry.manifest(self._newest)
            same = manifest.parent == champion and manifest.sha256 == hashlib.sha256(to_bytes(model)).hexdigest()
            return self._newest if same and not self._registry.verify(self._newest) else None
        except RegistryError:
            return None

    def show(self, version: int, why: str) -> None:
        """Let `serve` have that version answer its share, instead of the one before."""
        with suppress(AliasConflict):
            self._registry.promote(version, alias=self._alias, who=WHO, why=why, epoch=self._epoch)
            self._newest, self._shown = version, True

    def withdraw(self, why: str) -> None:
        """Let nobody be answered by it any more; what another learner shows by now is left alone."""
        if self._shown:
            with suppress(AliasConflict):
                self._registry.remove_alias(self._alias, who=WHO, why=why, epoch=self._epoch)
            self._shown = False
