"""Epochs of learners: each learner that takes over an alias begins a higher one, which fences off the one before."""

from __future__ import annotations

from pathlib import Path

from cifarctl.registry.files import os_errors, replace_file
from cifarctl.registry.layout import LEARNER

EPOCH = "epoch"


class Epochs:
    """The epoch of each alias's learner, a small file each; written under the registry's lock."""

    def __init__(self, registry: Path) -> None:
        self._folder = registry / LEARNER

    def of(self, alias: str) -> int:
        """The present epoch of the alias's learner; 0 before the first.

        Registries of earlier versions of cifarctl have one epoch for all aliases; the higher one counts.

        Raises:
            RegistryError: it cannot be read.
        """
        return max(_read(self._folder / EPOCH), _read(self._path(alias)))

    def begin(self, epoch: int, alias: str) -> None:
        """Make `epoch` the present one, unless a higher one has begun.

        Raises:
            RegistryError: it cannot be written.
        """
        if epoch > self.of(alias):
            replace_file(self._path(alias), b"%d\n" % epoch)

    def _path(self, alias: str) -> Path:
        return self._folder / f"{EPOCH}-{alias}"


def _read(path: Path) -> int:
    with os_errors(path):
        try:
            return int(path.read_bytes())
        except (FileNotFoundError, ValueError):  # none has begun, or the file was torn: the aliases still know it
            return 0
