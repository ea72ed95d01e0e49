"""The data set that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from cifarctl.data import cifar10, folder, synthetic
from cifarctl.data.types import Dataset
from cifarctl.errors import DataError
from cifarctl.settings import DataSettings

WARNING = "accuracies on them are not CIFAR-10's"


def load(settings: DataSettings, tell: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load `settings.source`, downloading CIFAR-10 where that is needed and allowed.

    ``auto`` falls back on synthetic images only where CIFAR-10 is absent and cannot be downloaded: an altered
    one is an error, since replacing it in silence would hide that something is wrong with the disk. What takes long is
    announced to `tell`.

    Raises:
        DataError: the images are absent, altered or unusable; the message names the file and the remedy.
    """
    if settings.source == "folder":
        return folder.load(settings.dir, tell)
    if settings.source == "synthetic":
        return _synthetic(settings, f"the images are drawn by this program (data.source = synthetic): {WARNING}")
    reason = cifar10.obtain(settings.dir, download=settings.download)
    if reason is None:
        return cifar10.load(settings.dir)
    if settings.source == "auto":
        return _synthetic(settings, f"synthetic images are drawn instead of CIFAR-10, since {reason}: {WARNING}")
    raise DataError(
        f"{reason}; put {cifar10.FOLDER} into {settings.dir}, or set data.dir (CIFARCTL_DATA__DIR) to a "
        "folder that holds it, or use data.source=synthetic"
    )


def _synthetic(settings: DataSettings, notice: str) -> Dataset:
    return Dataset(
        name="synthetic",
        classes=synthetic.CLASSES,
        train=synthetic.draw(settings.synthetic_images, seed=0),
        test=synthetic.draw(settings.synthetic_images // 5, seed=1),
        notice=notice,
    )
