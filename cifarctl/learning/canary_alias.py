"""The canary: the snapshot on trial, published as a version that an alias names while the trial lasts."""

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
    """The learner's side of the alias `<alias>-canary`, which only the learner moves.

    `serve` lets the canary answer a share of the stream. No decision of the learner depends on it.
    """

    def __init__(self, registry: Registry, alias: str, *, wanted: bool, epoch: int | None) -> None:
        """A canary for challengers of the version that `alias` names; without `wanted` none is ever published.

        `epoch` is the learner's leader epoch: the canary of a newer epoch is left alone.
        """
        self._registry, self._alias, self.wanted, self._epoch = registry, canary_of(alias), wanted, epoch
        self._newest: int | None = None  # version published as the canary last
        self._active = False  # whether the alias names it

    def take_over(self, model: nn.Module | None, champion: int) -> None:
        """Keep the canary of a previous learner if it is `model`, the snapshot on trial; otherwise withdraw it."""
        alias = self._registry.alias(self._alias)
        moves = self._registry.history(self._alias)
        if self.wanted:
            self._newest = next((move.to_version for move in reversed(moves) if move.to_version is not None), None)
        if alias is None or moves[-1].who != WHO:  # set by a person
            return
        self._active = True
        if model is None or self.version_of(model, champion) != alias.version:
            self.withdraw("left by a learner that was killed")
        else:
            self.show(alias.version, "taken over from a learner that was killed")

    def version_of(self, model: nn.Module, champion: int) -> int | None:
        """The last canary's version if it is exactly this model, on trial against `champion`.

        None if it is another model, was removed or is damaged.
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
        """Make that version the canary."""
        with suppress(AliasConflict):
            self._registry.promote(version, alias=self._alias, who=WHO, why=why, epoch=self._epoch)
            self._newest, self._active = version, True

    def withdraw(self, why: str) -> None:
        """Remove the canary, unless a newer learner has set it."""
        if self._active:
            with suppress(AliasConflict):
                self._registry.remove_alias(self._alias, who=WHO, why=why, epoch=self._epoch)
            self._active = False
