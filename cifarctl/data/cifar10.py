"""CIFAR-10, read by torchvision's class.

Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from cifarctl.data.types import Dataset, Images
from cifarctl.errors import DataError

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
TIMEOUT_S = 10.0
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Exceptions of fetching and unpacking; torchvision raises RuntimeError for a file that fails its md5.
_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
)


def obtain(directory: Path, *, download: bool) -> str | None:
    """See to it that ``cifar-10-batches-py`` is in `directory`: by itself, from its archive, or by download.

    Returns:
        None where it is there now (its files are checked by `load`), else the reason why it could not be had.

    Raises:
        DataError: `directory` cannot be read, or its archive is altered or cannot be unpacked.
    """
    folder, archive = directory / FOLDER, directory / ARCHIVE
    try:
        itself, ready, packed = (
            (directory / "data_batch_1").is_file(),
            _holds_files(folder),
            archive.is_file(),
        )
    except OSError as error:
        raise DataError(f"data.dir = {directory} cannot be read: {_line(error)}; check its permissions") from error
    if itself:
        raise DataError(f"data.dir = {directory} is {FOLDER} itself; set data.dir to the folder that holds it")
    if ready:
        return None
    if packed:
        _unpack(archive, folder)
        return None
    if not download:
        return f"{folder} is absent and data.download is off"
    return _download(directory)


def load(directory: Path) -> Dataset:
    """Read ``cifar-10-batches-py`` in `directory`, each file checked against torchvision's md5 beforehand.

    Raises:
        DataError: a file is missing, altered or unreadable; the message names it.
    """
    try:
        train, classes = _half(directory, train=True)
        test, _ = _half(directory, train=False)
    except (OSError, RuntimeError) as error:
        # Only now each file is checked by itself: that takes 0.4 s, which a good data set need not pay.
        raise DataError(_culprit(directory) or f"{directory / FOLDER} cannot be read: {_line(error)}") from error
    return Dataset("cifar10", classes, train, test, notice=None)


def _half(directory: Path, *, train: bool) -> tuple[Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    # The constructor checks both halves; without the other's list each file is checked only once.
    half = type("CIFAR10Half", (CIFAR10,), {"test_list" if train else "train_list": []})
    data = half(directory, train=train, download=False)
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # torchvision turned (N,3,32,32) round
    return Images(pixels, torch.tensor(data.targets, dtype=torch.int64)), tuple(data.classes)


def _culprit(directory: Path) -> str | None:
    """The message about the first file that is missing or differs from its md5."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = directory / FOLDER
    files = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    remedy = f"move {folder} away and run again with data.download=true to download it again"
    for name, md5 in files:
        path = folder / name
        try:
            if not path.is_file():
                return f"{path} is missing; {remedy}"
            if not check_integrity(path, md5):
                return f"{path} does not match its md5 {md5} (truncated or altered); {remedy}"
        except OSError as error:
            return f"{path} cannot be read: {_line(error)}; {remedy}"
    return None


def _download(directory: Path) -> str | None:
    """Download by torchvision, which shows its progress on stderr; None, or the reason why that failed."""
    from torchvision.datasets import CIFAR10

    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (
            _staging(directory) as staging,
            _socket_timeout(TIMEOUT_S),
            contextlib.redirect_stdout(sys.stderr),
        ):
            CIFAR10(staging, train=True, download=True)
            _move(staging / FOLDER, directory / FOLDER)
    except _FAILURES as error:
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()
        return f"{directory / FOLDER} is absent and {CIFAR10.url} cannot be downloaded ({_line(error)})"
    return None


def _unpack(archive: Path, folder: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    try:
        if not check_integrity(archive, CIFAR10.tgz_md5):
            raise DataError(
                f"{archive} does not match its md5 {CIFAR10.tgz_md5} (truncated or altered); "
                "move it away and run again with data.download=true to download it again"
            )
        with _staging(archive.parent) as staging:
            extract_archive(str(archive), str(staging))
            _move(staging / FOLDER, folder)
    except _FAILURES as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {_line(error)}") from error


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A folder next to the final one, so that an interrupted download never looks like a data set."""
    with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=directory) as name:
        yield Path(name)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError:
        if not _holds_files(target):  # else another process was faster, and its files are as good
            raise


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without a timeout; the process-wide default is the only way in."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
