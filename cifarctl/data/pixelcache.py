"""Decoded pictures in a file of the user's cache folder, mapped into memory: decoded once, never held as a whole.

A file has 4096 bytes of header, JSON padded with blanks, and then all pixels. A file that is absent, damaged or cannot
be written is not an error: the pictures are decoded again.
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

HEADER = 4096  # bytes
FORM = 1  # raised with every change of how pictures are decoded
ROOM = 8 * 2**30  # bytes of all files; beyond these the least recently used ones are deleted, except for the last two

Pixels = NDArray[np.uint8]


def pixels(files: Sequence[Path], shape: tuple[int, ...], decoded: Callable[[], Iterable[Pixels]]) -> Pixels:
    """The pixels (N, ...) of `files`, from the cache or else from `decoded`, which yields them block by block.

    They are decoded anew where the name, size or time of change of a file has changed. Exceptions of `decoded` pass
    through. The result may be written to, which changes only the copy in memory. Of several processes one decodes.

    Raises:
        OSError: one of the files is missing.
    """
    whole = (len(files), *shape)
    fingerprint = _fingerprint(files, shape)
    folder = Path(platformdirs.user_cache_dir("cifarctl")) / "images"
    path = folder / f"{fingerprint[:32]}.pixels"
    with suppress(OSError):  # the disk is full, or the folder cannot be written
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / ".lock", mode=0o600):
            found = _read(path, whole, fingerprint)
            if found is None and shutil.disk_usage(folder).free > HEADER + np.prod(whole, dtype=np.int64):
                _write(path, fingerprint, decoded())
                found = _read(path, whole, fingerprint)
                _prune(folder)
        if found is not None:
            return found
    return _held(whole, decoded())


def _fingerprint(files: Sequence[Path], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(f"{FORM} {PIL.__version__} {shape}".encode())
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
    except (OSError, ValueError, RecursionError):  # deeply nested JSON raises the last of these
        return None
    with suppress(OSError):
        os.utime(path)
    return mapped


def _write(path: Path, fingerprint: str, blocks: Iterable[Pixels]) -> None:
    temporary = path.with_suffix(".part")
    digest, size = hashlib.sha256(), 0
    try:
        temporary.touch(0o600)  # pictures of a private folder stay private
        # Not through a mapping: a full disk would then kill the process.
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


def _held(whole: tuple[int, ...], blocks: Iterable[Pixels]) -> Pixels:
    held, place = np.empty(whole, np.uint8), 0
    for block in blocks:
        held[place : place + len(block)] = block
        place += len(block)
    return held


def _digest(array: Pixels) -> str:
    return hashlib.sha256(array.reshape(-1).data).hexdigest()


def _prune(folder: Path) -> None:
    """Remove the files beyond ROOM, and those that killed writers have left; the caller holds the lock."""
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)
    entries = [(entry.stat().st_mtime, entry.stat().st_size, entry) for entry in folder.glob("*.pixels")]
    held = 0
    for number, (_, size, path) in enumerate(sorted(entries, reverse=True)):
        held += size
        if number >= 2 and held > ROOM:
            path.unlink(missing_ok=True)
