"""A data set of image files: ``train/<class>/*.png`` and ``test/<class>/*.png``."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cifarctl import cpus
from cifarctl.data import pixelcache
from cifarctl.data.types import Dataset, Images
from cifarctl.errors import DataError

SIDE = 32
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
MAX_PIXELS = 50_000_000  # protects against decompression bombs; 150 MB per decoded image
NOTICE_FILES = 20_000  # number of files from which decoding is announced, as it takes long
CHUNK = 256  # files per task; with one file per task, scheduling costs more than decoding

# Exceptions that Pillow raises for broken files.
_FAILURES = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def load(directory: Path, tell: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load all images below `directory`, converted to RGB and resized to 32×32 (antialiased); see `pixelcache`.

    The classes are the subfolders of ``train``, sorted by name; ``test`` may lack some of them. Names that start with a
    dot and files without an image suffix are ignored. Long work is announced by `tell`.

    Raises:
        DataError: ``train`` or ``test`` is absent, there are fewer than two classes, a class has no images or a name
            that is not UTF-8, ``test`` has a class that ``train`` lacks, or an image cannot be read or has more than
            50 million pixels.
    """
    train_folders = _class_folders(directory, "train")
    test_folders = _class_folders(directory, "test")
    classes = tuple(train_folders)
    if len(classes) < 2:
        raise DataError(f"{directory / 'train'} has {len(classes)} class folder(s); it needs at least 2")
    for name, folder in test_folders.items():
        if name not in train_folders:
            raise DataError(f"{folder}: train has no class {name}; add train/{name}, or move this folder elsewhere")
    if not test_folders:
        raise DataError(f"{directory / 'test'} has no class folder; add test/<class>/*.png")
    train, test = _read(train_folders, classes, tell), _read(test_folders, classes, tell)
    return Dataset("folder", classes, train, test, notice=None)


def classes(directory: Path) -> tuple[str, ...] | None:
    """The classes that `load` would find; None if it would find none."""
    try:
        return tuple(_class_folders(directory, "train")) or None
    except DataError:
        return None


def _class_folders(directory: Path, part: str) -> dict[str, Path]:
    folder = directory / part
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; data.source=folder needs train/<class>/*.png and test/<class>/*.png"
        )
    found = {entry.name: entry for entry in _visible(folder) if entry.is_dir()}
    for name, entry in found.items():
        try:
            name.encode()
        except UnicodeEncodeError:  # fail now: the manifest, written after training, is UTF-8
            raise DataError(f"{entry}: the name of this class folder is not UTF-8; rename it") from None
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; check its permissions") from error


def _read(folders: dict[str, Path], classes: tuple[str, ...], tell: Callable[[str], None]) -> Images:
    paths: list[Path] = []
    labels: list[int] = []
    for name, folder in folders.items():
        pictures = [entry for entry in _visible(folder) if entry.suffix.lower() in SUFFIXES]
        if not pictures:
            raise DataError(f"{folder} contains no images ({', '.join(sorted(SUFFIXES))}); add some or move it away")
        paths += pictures
        labels += [classes.index(name)] * len(pictures)
    try:
        pixels = pixelcache.pixels(paths, (3, SIDE, SIDE), partial(_decoded, paths, tell))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    return Images(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64))


def _decoded(paths: list[Path], tell: Callable[[str], None]) -> Iterator[np.ndarray]:
    """All images in blocks (up to 256, 3, 32, 32) uint8."""
    if len(paths) >= NOTICE_FILES:
        tell(f"decoding {len(paths):,} images; the result is cached until they change")

    def decode(start: int) -> np.ndarray:
        return np.stack([_decode(path) for path in paths[start : start + CHUNK]])

    workers = min(8, cpus.count())
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Pillow warns before our own, lower limit is checked; turn its warning into an error.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        waiting: deque[Future[np.ndarray]] = deque()  # bounded, so that a slow consumer does not accumulate images
        for start in range(0, len(paths), CHUNK):
            waiting.append(pool.submit(decode, start))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _decode(path: Path) -> np.ndarray:
    """Decode one image, (3, 32, 32) uint8."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            # The size is read from the header, before any decoding.
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} is {image.width}×{image.height}, more than {MAX_PIXELS:,} pixels; shrink or move it"
                )
            picture = _rgb(image)
            if picture.size != (SIDE, SIDE):
                picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            return np.asarray(picture).transpose(2, 0, 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} has more than {MAX_PIXELS:,} pixels; shrink or move it") from error
    except _FAILURES as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a picture ({cause}); replace or move it") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's conversion would clip them to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about some palettes if they are converted to RGB directly
    return image.convert("RGB")
