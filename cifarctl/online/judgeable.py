"""What may be learned from: a version whose successors can be judged."""

from __future__ import annotations

from cifarctl.errors import DataError
from cifarctl.registry import Manifest
from cifarctl.settings import OnlineSettings


def require_judgeable(manifest: Manifest, settings: OnlineSettings) -> None:
    """Refuse a version of ``train --full``, which knows the images by heart that its successors are judged by.

    Of what was imported nobody can tell what it has seen, and what a learner has made comes of a version that it was
    allowed to learn from.

    Raises:
        DataError: it is one, and `settings` do not allow that.
    """
    if manifest.origin == "train" and "validation" in manifest.split.seen and not settings.allow_full:
        raise DataError(
            f"version {manifest.version} was trained on {', '.join(manifest.split.seen)} images, so nothing is left to "
            "judge by what is learned from it; `cifarctl train --promote` without --full makes one to learn from "
            "(online.allow_full = true learns from this one)"
        )
