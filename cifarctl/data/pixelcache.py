"""A cache of decoded images in the user's cache folder, memory-mapped so that they need not fit into memory.

A file has a header of 4096 bytes (JSON padded with spaces), followed by all pixels. A missing, damaged or unwritable
cache is not an error: the images are decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray

HEADER = 4096
FORMAT_VERSION = 1  # increase it with every change of the decoding
MAX_BYTES = 8 * 2**30  # total size; beyond it the least recently used files are removed, but never the newest two

Pixels = NDArray[np.uint8]


def pixels(files: Sequence[Path], shape: tuple[int, ...], decoded: Callable[[], Iterable[Pixels]]) -> Pixels:
    """The pixels (N, *shape) of `files`, from the cache or from `decoded`, which yields them in blocks.

    A change of any file's path, size or timestamps invalidates the cache. Concurrent processes decode only once. The
    result is writable (copy-on-write). Exceptions of `decoded` propagate.

    Raises:
        OSError: one of the files no longer exists.
    """
    whole = (len(files), *shape)
    fingerprint = _fingerprint(files, shape)
    folder = Path(platformdirs.user_cache_dir("cifarctl")) / "images"
    path = folder / f"{fingerprint[:32]}.pixels"
    with suppress(OSError):  # the disk is full, or the folder is not writable
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / ".lock", mode=0o600):
            found = _read(path, whole, fingerprint)
            if found is None and shutil.disk_usage(folder).free > HEADER + np.prod(whole, dtype=np.int64):
                _write(path, fingerprint, decoded())
                found = _read(path, whole, fingerprint)
                _prune(folder)
        if found is not None:
            return found
    return _in_memory(whole, decoded())


def _fingerprint(files: Sequence[Path], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(f"{FORMAT_VERSION} {PIL.__version__} {shape}".encode())
    for path in files:
        found = path.stat()
        times = f"{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}"
        digest.update(f"\0{path.absolute()}\0{times}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(path: Path, whole: tuple[int, ...], fingerprint: str) -> Pixels | None:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
        mapped = np.memmap(path, np.uint8, "c", HEADER, whole)
        if header != {"files": fingerprint, "bytes": mapped.size, "sha256": _digest(mapped)}:
            return None
    except (OSError, ValueError, RecursionError):  # RecursionError: deeply nested JSON
        return None
    with suppress(OSError):
        os.utime(path)
    return mapped


def _write(path: Path, fingerprint: str, blocks: Iterable[Pixels]) -> None:
    temporary = path.with_suffix(".part")
    digest, size = hashlib.sha256(), 0
    try:
        temporary.touch(0o600)  # keeps images of a private folder private
        # Not written through a memory map: on a full disk that would kill the process.
        with temporary.open("r+b") as file:
            file.truncate(HEADER)
            file.seek(HEADER)
            for block in blocks:
                content = block.tobytes()
                digest.update(content)
                size += file.write(content)
            header = {"files": fingerprint, "bytes": size, "sha256": digest.hexdigest()}
            file.seek(0)
            file.write(json.dumps(header).encode().ljust(HEADER))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _in_memory(whole: tuple[int, ...], blocks: Iterable[Pixels]) -> Pixels:
    held, place = np.empty(whole, np.uint8), 0
    for block in blocks:
        held[place : place + len(block)] = block
        place += len(block)
    return held


def _digest(array: Pixels) -> str:
    return hashlib.sha256(array.reshape(-1).data).hexdigest()


def _prune(folder: Path) -> None:
    """Remove files beyond `MAX_BYTES` and partial files of killed writers; the lock excludes other writers."""
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)
    entries = [(entry.stat().st_mtime, entry.stat().st_size, entry) for entry in folder.glob("*.pixels")]
    total = 0
    for number, (_, size, path) in enumerate(sorted(entries, reverse=True)):
        total += size
        if number >= 2 and total > MAX_BYTES:
            path.unlink(missing_ok=True)
