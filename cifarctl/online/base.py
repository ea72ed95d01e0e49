"""What may be learned from."""

from __future__ import annotations

from cifarctl.errors import DataError
from cifarctl.registry import Manifest
from cifarctl.settings import OnlineSettings


def require_unseen(manifest: Manifest, settings: OnlineSettings) -> None:
    """Refuse to learn from a version that knows by heart what its successors would be judged by.

    Raises:
        DataError: it does, and `settings` do not allow it.
    """
    if "validation" in manifest.split.seen and not settings.allow_full:
        raise DataError(
            f"version {manifest.version} was trained on {', '.join(manifest.split.seen)} images, so nothing is left to "
            "judge by what is learned from it; `cifarctl train --promote` without --full makes one to learn from "
            "(online.allow_full = true learns from this one)"
        )
