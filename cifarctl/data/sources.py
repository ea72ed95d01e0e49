"""The data set that the settings name."""

from __future__ import annotations

from collections.abc import Callable

from cifarctl.data import cifar10, folder, synthetic
from cifarctl.data.types import Dataset
from cifarctl.errors import DataError
from cifarctl.settings import DataSettings

WARNING = "accuracies on them are not CIFAR-10's"


def load(settings: DataSettings, tell: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load `settings.source`, downloading CIFAR-10 where that is needed and allowed.

    ``auto`` falls back on synthetic images only where CIFAR-10 is absent and cannot be downloaded. An altered copy is
    an error: replacing it silently would hide that something is wrong with the disk. Slow work is announced to `tell`.

    Raises:
        DataError: the images are absent, altered or unusable; the message names the file and the remedy.
    """
    directory = settings.dir.absolute()  # so that errors name the folder that was looked in
    if settings.source == "folder":
        return folder.load(directory, tell)
    if settings.source == "synthetic":
        return _synthetic(settings, f"the images are drawn by this program (data.source = synthetic): {WARNING}")
    reason = cifar10.obtain(directory, download=settings.download)
    if reason is None:
        return cifar10.load(directory)
    if settings.source == "auto":
        return _synthetic(settings, f"synthetic images are drawn instead of CIFAR-10, since {reason}: {WARNING}")
    raise DataError(
        f"{reason}; put {cifar10.FOLDER} into {directory}, or set data.dir (CIFARCTL_DATA__DIR) to a "
        "folder that holds it, or use data.source=synthetic"
    )


def classes(settings: DataSettings) -> tuple[str, ...] | None:
    """The classes of the images that the settings name, without loading any; None where they cannot be known so."""
    if settings.source == "synthetic":
        return synthetic.CLASSES
    if settings.source == "folder":
        return folder.classes(settings.dir)
    return cifar10.CLASSES if (settings.dir / cifar10.FOLDER).is_dir() else None


def _synthetic(settings: DataSettings, notice: str) -> Dataset:
    return Dataset(
        name="synthetic",
        classes=synthetic.CLASSES,
        train=synthetic.draw(settings.synthetic_images, seed=0),
        test=synthetic.draw(settings.synthetic_images // 5, seed=1),
        notice=notice,
    )
