"""Load the data set that the settings select."""

from __future__ import annotations

from collections.abc import Callable

from cifarctl.data import cifar10, folder, synthetic
from cifarctl.data.split import Split, split
from cifarctl.data.types import Dataset
from cifarctl.errors import DataError
from cifarctl.settings import DataSettings

WARNING = "accuracies on them are not CIFAR-10's"


def split_of(dataset: Dataset, settings: DataSettings) -> Split:
    """Split the training images of `dataset` as the settings say.

    Raises:
        DataError: a class has too few images.
    """
    return split(dataset.train.labels, settings.split, settings.split_seed)


def load(settings: DataSettings, tell: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load `settings.source`, downloading CIFAR-10 if necessary and allowed.

    ``auto`` falls back to synthetic images only if CIFAR-10 is absent and cannot be downloaded. An altered copy is an
    error, as a silent fallback would hide a fault of the disk. Long work is announced by `tell`.

    Raises:
        DataError: the images are absent, altered or unusable; the message names the file and the remedy.
    """
    directory = settings.dir.absolute()  # errors name the full path
    if settings.source == "folder":
        return folder.load(directory, tell)
    if settings.source == "synthetic":
        return _synthetic(settings, f"the images are synthetic (data.source = synthetic): {WARNING}")
    reason = cifar10.obtain(directory, download=settings.download)
    if reason is None:
        return cifar10.load(directory)
    if settings.source == "auto":
        return _synthetic(settings, f"the images are synthetic instead of CIFAR-10, because {reason}: {WARNING}")
    raise DataError(
        f"{reason}; put {cifar10.FOLDER} into {directory}, or set data.dir (CIFARCTL_DATA__DIR) to a "
        "folder that contains it, or use data.source=synthetic"
    )


def classes(settings: DataSettings) -> tuple[str, ...] | None:
    """The classes of the selected data set, without loading images; None if they cannot be determined."""
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
