"""Whether a version belongs to the images at hand."""

from __future__ import annotations

from collections.abc import Sequence

from cifarctl.errors import DataError
from cifarctl.registry.manifest import Manifest


def require_compatible(
    manifest: Manifest, dataset: str, classes: Sequence[str], *, split: str | None = None, unseen: str = ""
) -> None:
    """Refuse a version that knows other classes than the data set of that name.

    With the hash of a `split`, refuse also one that was trained on another split, since it may have seen the images
    that `unseen` names.

    Raises:
        DataError: the version does not belong to these images; the message says which settings to change.
    """
    if manifest.classes != tuple(classes):
        raise DataError(
            f"version {manifest.version} knows the classes {', '.join(manifest.classes[:3])}, ..., the data set "
            f"{dataset} has {', '.join(classes[:3])}, ...; set data.source and data.dir as for its training"
        )
    if split is not None and manifest.split.sha256 != split:
        raise DataError(
            f"version {manifest.version} was trained on another split of the images, so it may have seen {unseen}; "
            "set data.source, data.split and data.split_seed as for its training"
        )
