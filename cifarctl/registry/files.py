"""Files that survive a crash: written, synced and renamed, with every OSError mapped to a RegistryError."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from cifarctl.errors import RegistryError

STAGING = ".staging-"
TRASH = ".trash-"

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RegistryError that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            remedy = "free some space, or set registry.dir to another disk"
        elif error.errno in _NO_RIGHT:
            remedy = "get read and write permission there, or set registry.dir to another folder"
        else:
            remedy = "check this path, or set registry.dir to another folder"
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path
        raise RegistryError(f"{name}: {error.strerror or error}; {remedy}") from error


def token(prefix: str) -> str:
    """A unique name with that prefix."""
    return prefix + uuid.uuid4().hex


def sync_directory(path: Path) -> None:
    """Make the entries of a folder durable."""
    if os.name != "posix":  # elsewhere a folder cannot be opened; renames are durable by the file system's journal
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a folder and its missing parents, and sync them to disk.

    Raises:
        RegistryError: it cannot be created.
    """
    with os_errors(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_directory(folder.parent)
        path.mkdir(exist_ok=True)  # a file in its place is an error here, not later


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and make its content durable (its name is, once the folder is synced).

    Raises:
        RegistryError: the file is there already or cannot be written.
    """
    with os_errors(path), path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, allowed: AbstractContextManager[object] | None = None) -> None:
    """Put `content` at `path` atomically and durably, with the folders above it.

    Only the rename happens within `allowed`, so that a slow write does not hold up what `allowed` guards.

    Raises:
        RegistryError: it cannot be written; what was at `path` is still there.
    """
    make_directory(path.parent)
    temporary = path.parent / token(STAGING)
    with os_errors(path):
        try:
            write_file(temporary, content)
            with allowed or nullcontext():
                temporary.replace(path)
        finally:
            with suppress(OSError):  # the failure that led here is the one to report
                temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file durably, on a line of its own even where a crash tore the last one.

    Raises:
        RegistryError: it cannot be written.
    """
    make_directory(path.parent)
    with os_errors(path):
        with path.open("a+b") as file:
            start = b""
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                start = b"" if file.read(1) == b"\n" else b"\n"
            file.write(start + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A hidden folder next to `target`, which is renamed to it when the block succeeds and else deleted.

    The caller holds the lock under which `target` was found to be free.

    Raises:
        RegistryError: the folder cannot be written, or `target` has appeared.
    """
    staging = target.parent / token(STAGING)
    with os_errors(target):
        try:
            staging.mkdir()
            yield staging
            sync_directory(staging)
            if os.path.lexists(target):  # rename would silently replace an empty folder
                raise RegistryError(f"{target} already exists: another writer ignored the lock; try again")
            staging.rename(target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_directory(target.parent)


def entries(directory: Path) -> list[str]:
    """Sorted names in a folder; none when there is no such folder.

    Raises:
        RegistryError: it cannot be read.
    """
    with os_errors(directory):
        try:
            return sorted(entry.name for entry in directory.iterdir())
        except FileNotFoundError:
            return []


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(entry) for entry in path.iterdir())
    return path.lstat().st_size


def delete(path: Path) -> None:
    """Delete a file, or a folder and everything in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
