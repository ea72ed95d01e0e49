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

    def __init__(self, registry: Registry, alias: str, *, wanted: bool) -> None:
        """For what is on trial against the version that `alias` names; only where it is `wanted` one is shown."""
        self._registry, self._alias, self.wanted = registry, canary_of(alias), wanted
        self._newest: int | None = None  # that has ever been shown
        self._generation: int | None = None  # of the alias, as long as it names that one

    def take_over(self, model: nn.Module | None, champion: int) -> None:
        """What another learner has left: it stays where `version_of` knows it, and is withdrawn otherwise."""
        alias = self._registry.alias(self._alias)
        if self.wanted:
            named = [move.to_version for move in self._registry.history(self._alias)]
            self._newest = next((version for version in reversed(named) if version is not None), None)
        if alias is not None:
            self._generation = alias.generation
            if model is None or self.version_of(model, champion) != alias.version:
                self.withdraw("left by a learner that was killed")

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
        moved = self._registry.promote(version, alias=self._alias, who=WHO, why=why)
        self._newest, self._generation = version, moved.generation

    def withdraw(self, why: str) -> None:
        """Let nobody be answered by it any more; what another learner shows by now is left alone."""
        if self._generation is not None:
            with suppress(AliasConflict):
                self._registry.remove_alias(self._alias, who=WHO, why=why, expected_generation=self._generation)
            self._generation = None
