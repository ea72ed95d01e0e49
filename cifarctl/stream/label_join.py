"""Joins images with labels that come later, or earlier, on another topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cifarctl.stream.image_store import Image, ImageStore
from cifarctl.stream.join import Join, Place
from cifarctl.stream.records import SHAPE, Partition

MIB = 1 << 20


@dataclass(frozen=True)
class Matched:
    """Images matched with their labels, each once: pixels (M, 3, 32, 32) uint8, writable; labels (M,) int64.

    `numbers` are those with which the images came; None if they come only now.
    """

    ids: list[str]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    numbers: list[int] | None


class LabelJoin:
    """Joins images and late labels by id, whichever comes first.

    Both wait for at most `wait_s` seconds. Images take up to `max_mb` MiB of memory and then `disk_mb` MiB of a file in
    `folder`; labels that came first take up to half as much memory, and the ids of matched pairs a quarter. Beyond that
    the oldest are dropped and counted. Close it to delete the file.
    """

    def __init__(
        self,
        *,
        wait_s: float,
        max_mb: int,
        disk_mb: int = 0,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        size = max_mb * MIB
        self._images = ImageStore(size, wait_s, disk_bytes=disk_mb * MIB, folder=folder)
        self._join: Join[Image] = Join(
            self._images, wait_s=wait_s, label_bytes=size // 2, settled_bytes=size // 4, clock=clock
        )

    def __enter__(self) -> LabelJoin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file and the images in it."""
        self._images.close()

    def __len__(self) -> int:
        """Images that wait."""
        return len(self._images)

    @property
    def unmatched_images(self) -> int:
        """Images dropped before their label came."""
        return self._join.unmatched_items

    @property
    def displaced_images(self) -> int:
        """Those of them that were dropped to make room."""
        return self._images.displaced

    @property
    def disk_failure(self) -> str | None:
        """Why the file on disk, and the images in it, were given up; None while all is well."""
        return self._images.failure

    @property
    def unmatched_labels(self) -> int:
        """Labels dropped before their image came."""
        return self._join.unmatched_labels

    @property
    def fitting_labels(self) -> int:
        """Labels whose image is known."""
        return self._join.fitting_labels

    def labels_without_item(self, for_s: float) -> tuple[int, str | None]:
        """Labels that were dropped or have waited for their image for `for_s` seconds, and the id of one of them."""
        return self._join.labels_without_item(for_s)

    @property
    def repeated_labels(self) -> int:
        """Labels that repeated a known one."""
        return self._join.repeated_labels

    @property
    def conflicting_labels(self) -> int:
        """Labels that contradicted the first one of the same image, which counts."""
        return self._join.conflicting_labels

    @property
    def fill(self) -> float:
        """The larger of two shares in use: of the room for images, including the disk, and of the room for labels."""
        return max(self._images.fill, self._join.labels.fill)

    def numbers(self, most: int) -> dict[str, int]:
        """The numbers of the newest `most` images that wait, by id, oldest first."""
        return self._images.numbers(most)

    def waits(self, image_id: str) -> bool:
        """Whether that image waits for its label."""
        return image_id in self._images

    def add_images(
        self, ids: Sequence[str], pixels: NDArray[np.uint8], numbers: Sequence[int], places: Iterable[Place | None]
    ) -> Matched:
        """Take in unlabelled images (B, 3, 32, 32); returns those whose labels have been waiting, in the same order."""
        self._join.expire()
        found: list[tuple[str, Image, int]] = []
        for image_id, image, number, place in zip(ids, pixels, numbers, places, strict=True):
            item = Image(number, image.tobytes())
            label = self._join.add_item(image_id, item, len(item.pixels), place)
            if label is not None:
                found.append((image_id, item, label))
        return _matched(found)

    def add_labels(self, ids: Sequence[str], labels: NDArray[np.int64], places: Iterable[Place | None]) -> Matched:
        """Take in labels (B,); returns the images that have been waiting for them, in the order of the labels."""
        self._join.expire()
        found: list[tuple[str, Image, int]] = []
        for image_id, label, place in zip(ids, labels.tolist(), places, strict=True):
            item = self._join.add_label(image_id, label, place)
            if item is not None:
                found.append((image_id, item, label))
        return _matched(found)

    def settle(self, ids: Iterable[str], labels: Iterable[int | None]) -> None:
        """Remember images whose label (None: unknown) came another way, so that it is not waited for."""
        for image_id, label in zip(ids, labels, strict=True):
            self._join.settle(image_id, label)

    def forget(self, partitions: Set[Partition]) -> None:
        """Drop everything read from `partitions`: another process reads them now."""
        self._join.forget(partitions)

    def low_water(self, not_before_ms: int | None = None) -> dict[Partition, int]:
        """The lowest offset of each partition from which an image or a label is still waiting.

        A reader that commits no further reads the waiting ones again after a restart. Those produced before
        `not_before_ms` (epoch milliseconds) are not worth it and are left out.
        """
        return self._join.low_water(not_before_ms)


def _matched(found: list[tuple[str, Image, int]]) -> Matched:
    # A bytearray, because torch warns about tensors over memory that cannot be written.
    joined = bytearray().join(image.pixels for _, image, _ in found)
    return Matched(
        [image_id for image_id, _, _ in found],
        np.frombuffer(joined, dtype=np.uint8).reshape(-1, *SHAPE),
        np.array([label for _, _, label in found], dtype=np.int64),
        [image.number for _, image, _ in found],
    )
