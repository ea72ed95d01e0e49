"""Whether a version fits the images at hand."""

from __future__ import annotations

from collections.abc import Sequence

from cifarctl.errors import DataError
from cifarctl.registry.manifest import Manifest


def require_compatible(
    manifest: Manifest, dataset: str, classes: Sequence[str], *, split: str | None = None, unseen: str = ""
) -> None:
    """Refuse a version whose classes are not those of the data set `dataset`.

    With the hash of a `split`, also refuse a version that was trained on another split, since it may have seen the
    images that `unseen` names.

    Raises:
        DataError: the version does not fit these images; the message says which settings to change.
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
