"""Check that a version's successors can be evaluated on images that it was not trained on."""

from __future__ import annotations

from cifarctl.errors import DataError
from cifarctl.registry import Manifest
from cifarctl.settings import OnlineSettings


def require_judgeable(manifest: Manifest, settings: OnlineSettings) -> None:
    """Refuse a version of ``train --full``: it was trained on the images that the gate evaluates its successors on.

    Imported versions pass, as their training images are unknown. So do a learner's versions, whose first ancestor
    passed this check.

    Raises:
        DataError: the version is one of ``train --full``, and online.allow_full is false.
    """
    if manifest.origin == "train" and "validation" in manifest.split.seen and not settings.allow_full:
        raise DataError(
            f"version {manifest.version} was trained on {', '.join(manifest.split.seen)} images, so no images are left "
            "to evaluate its successors on; train another one by `cifarctl train --promote` without --full, or set "
            "online.allow_full = true to start from this one"
        )
