"""CIFAR-10, loaded and verified with torchvision.

Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
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
TIMEOUT_S = 10.0  # of each socket operation of the download
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Exceptions of download and extraction; torchvision raises RuntimeError for a wrong md5.
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
    """Make ``cifar-10-batches-py`` available in `directory`: existing, from its archive, or by download.

    Returns:
        None if it is available (`load` checks its files), otherwise the reason why not.

    Raises:
        DataError: `directory` cannot be read, or its archive is altered or cannot be unpacked.
    """
    folder, archive = directory / FOLDER, directory / ARCHIVE
    try:
        is_folder_itself, ready, packed = (
            (directory / "data_batch_1").is_file(),
            _holds_files(folder),
            archive.is_file(),
        )
    except OSError as error:
        raise DataError(f"data.dir = {directory} cannot be read: {_line(error)}; check its permissions") from error
    if is_folder_itself:
        raise DataError(f"data.dir = {directory} is {FOLDER} itself; set data.dir to its parent folder")
    if ready:
        return None
    if packed:
        _unpack(archive, folder)
        return None
    if not download:
        return f"{folder} does not exist and data.download is false"
    return _download(directory)


def load(directory: Path) -> Dataset:
    """Load ``cifar-10-batches-py`` in `directory`, after checking each file against torchvision's md5.

    Raises:
        DataError: a file is missing, altered or unreadable; the message names it.
    """
    try:
        train, classes = _half(directory, train=True)
        test, _ = _half(directory, train=False)
    except (OSError, RuntimeError) as error:
        # Finding the faulty file takes 0.4 s, so it is done only after a failure.
        raise DataError(_culprit(directory) or f"{directory / FOLDER} cannot be read: {_line(error)}") from error
    return Dataset("cifar10", classes, train, test, notice=None)


def _half(directory: Path, *, train: bool) -> tuple[Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    # The constructor verifies train and test files; clearing the other list avoids verifying each file twice.
    half = type("CIFAR10Half", (CIFAR10,), {"test_list" if train else "train_list": []})
    data = half(directory, train=train, download=False)
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # torchvision has (N, 32, 32, 3)
    return Images(pixels, torch.tensor(data.targets, dtype=torch.int64)), tuple(data.classes)


def _culprit(directory: Path) -> str | None:
    """The error message for the first file that is missing or differs from its md5; None if all are fine."""
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
    """Download with torchvision, which shows progress on stderr; returns None, or the reason why it failed."""
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
        return f"{directory / FOLDER} does not exist and {CIFAR10.url} cannot be downloaded ({_line(error)})"
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
    """A temporary folder next to the final one, so that an interrupted download never looks like a data set."""
    with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=directory) as name:
        yield Path(name)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError:
        if not _holds_files(target):  # otherwise another process was faster
            raise


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the process-wide socket timeout, as torchvision takes none for its connections."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
