"""The file that carries the state a learner's decisions depend on from one process to the next."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from cifarctl.registry import Manifest, Registry, checkpoint
from cifarctl.registry.claims import Stream
from cifarctl.registry.files import os_errors
from cifarctl.registry.layout import LEARNER
from cifarctl.settings import OnlineSettings

CHECKPOINT = "checkpoint.safetensors"
FORMAT = 5


class LearnerCheckpoint:
    """The checkpoint of the learner of one stream and alias; learners of other streams have files of their own."""

    def __init__(self, registry: Registry, alias: str, *, stream: Stream | None, epoch: int | None) -> None:
        """`stream` None: any learner of `alias`; `epoch` is the learner's leader epoch, checked on saving."""
        self._registry, self._alias, self._stream, self._epoch = registry, alias, stream, epoch
        self.folder = registry.dir / LEARNER
        self.path = self.folder / (CHECKPOINT if stream is None else stream.checkpoint)

    def save(
        self, tensors: Mapping[str, torch.Tensor], state: dict[str, Any], manifest: Manifest, settings: OnlineSettings
    ) -> None:
        """Replace the file, all or nothing.

        Raises:
            RegistryError: the file cannot be written.
            Superseded: another learner has taken over.
        """
        state = {"of": _identity(manifest, settings), **state}
        if self._stream is not None:
            state["stream"] = self._stream.to_json()
        allowed = nullcontext() if self._epoch is None else self._registry.in_epoch(self._epoch, alias=self._alias)
        checkpoint.save(self.path, tensors, state, allowed)

    def load(
        self, manifest: Manifest, settings: OnlineSettings
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and state; None without a file, or where it is of other images, classes, sizes or another stream.

        Raises:
            RegistryError: the file is not a checkpoint.
        """
        found = checkpoint.load(self.path) or self._unclaimed()
        if found is None or found[1].get("of") != _identity(manifest, settings):
            return None
        return found if Stream.of_json(found[1].get("stream")) in {None, self._stream} else None

    def _unclaimed(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """A checkpoint from before each stream had its own: it is that of the first one that moves the same alias."""
        before = self.folder / CHECKPOINT
        if self._stream is None or (found := checkpoint.load(before)) is None:
            return None
        alias, *_ = found[1]["learner"]["strategy"]
        if alias != self._alias:
            return None
        with os_errors(before):
            before.replace(self.path)
        return found


def _identity(manifest: Manifest, settings: OnlineSettings) -> dict[str, Any]:
    """The properties that a checkpoint must share with the learner that restores it."""
    return {
        "format": FORMAT,
        "classes": list(manifest.classes),
        "split": manifest.split.sha256,
        "buffer_size": settings.buffer_size,
        "holdout_size": settings.holdout_size,
        "holdout_every": settings.holdout_every,
    }
