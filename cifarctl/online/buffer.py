"""The replay buffer: a bounded store of labelled stream images in preallocated tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cifarctl.data import Images

SHAPE = (3, 32, 32)
HORIZON = 50_000  # ids remembered to reject duplicate deliveries; more costs memory and checkpoint size


class Ring:
    """A ring buffer of the newest `capacity` images."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.pixels = torch.zeros((capacity, *SHAPE), dtype=torch.uint8)
        self.labels = torch.zeros(capacity, dtype=torch.int64)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, pixels: torch.Tensor, label: int) -> tuple[torch.Tensor, int] | None:
        """Add one image (3, 32, 32); returns the image and label that it displaced, if any."""
        slot = self.added % self.capacity
        displaced = None
        if self.added >= self.capacity:
            displaced = self.pixels[slot].clone(), int(self.labels[slot])
        self.pixels[slot], self.labels[slot] = pixels, label
        self.added += 1
        return displaced

    def newest(self, count: int) -> Images:
        """The newest `count` images, or all if there are fewer, oldest first."""
        count = min(count, len(self))
        index = torch.arange(self.added - count, self.added) % self.capacity
        return Images(self.pixels[index], self.labels[index])

    def restore(self, images: Images, added: int) -> None:
        """Load the newest `images` from a checkpoint; `added` is the total number ever added."""
        self.added = added - len(images)
        for pixels, label in zip(images.pixels, images.labels.tolist(), strict=True):
            slot = self.added % self.capacity
            self.pixels[slot], self.labels[slot] = pixels, label
            self.added += 1


class Reservoir:
    """A class-balanced sample of all images offered (class-balancing reservoir sampling).

    Source: Chrysakis and Moens 2020, Online Continual Learning from Imbalanced Data. Until the reservoir is full, every
    image is kept. After that, an image whose class was never the largest displaces a random image of the largest
    class. An image of another class replaces a random image of its own class with the probability of reservoir
    sampling.
    """

    def __init__(self, capacity: int, classes: int, generator: torch.Generator) -> None:
        self.capacity = capacity
        self.pixels = torch.zeros((capacity, *SHAPE), dtype=torch.uint8)
        self.labels = torch.full((capacity,), -1, dtype=torch.int64)
        self.size = 0
        self.seen = torch.zeros(classes, dtype=torch.int64)
        self.full = torch.zeros(classes, dtype=torch.bool)
        self._generator = generator

    def __len__(self) -> int:
        return self.size

    def add(self, pixels: torch.Tensor, label: int) -> None:
        """Offer one image (3, 32, 32)."""
        self.seen[label] += 1
        slot = self._slot(label)
        if slot is not None:
            self.pixels[slot], self.labels[slot] = pixels, label

    def images(self) -> Images:
        """All images in the reservoir."""
        return Images(self.pixels[: self.size], self.labels[: self.size])

    def _slot(self, label: int) -> int | None:
        if self.size < self.capacity:
            self.size += 1
            return self.size - 1
        counts = torch.bincount(self.labels, minlength=len(self.seen))
        largest = counts == counts.max()
        self.full |= largest
        if not self.full[label]:
            return self._pick(torch.nonzero(largest[self.labels]).squeeze(1))
        if self._random(int(self.seen[label])) < int(counts[label]):
            return self._pick(torch.nonzero(self.labels == label).squeeze(1))
        return None

    def _pick(self, slots: torch.Tensor) -> int:
        return int(slots[self._random(len(slots))])

    def _random(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self._generator))


class ReplayBuffer:
    """A recent window, a class-balanced reservoir of images that left the window, and held-out images for the gate.

    Window and reservoir get half of `capacity` each. Every `holdout_every`-th image goes to the held-out ring and is
    never trained on. Ids among the last 50,000 are rejected as duplicates. Memory: 3,080 bytes per image, allocated at
    the start.
    """

    def __init__(
        self,
        capacity: int,
        classes: int,
        *,
        holdout_size: int,
        holdout_every: int,
        generator: torch.Generator,
    ) -> None:
        self.capacity = capacity
        self.classes = classes
        self.recent = Ring(capacity - capacity // 2)
        self.reservoir = Reservoir(capacity // 2, classes, generator)
        self.holdout = Ring(holdout_size)
        self.labelled = 0
        self.duplicates = 0
        self._every = holdout_every
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """Number of images available for training, at most `capacity`."""
        return len(self.recent) + len(self.reservoir)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that would be rejected as duplicates, oldest first."""
        return tuple(self._ids)

    def unseen(self, ids: Sequence[str]) -> list[int]:
        """Indices of new ids, each id once; all others are counted as duplicates."""
        first = {image_id: place for place, image_id in reversed(list(enumerate(ids))) if image_id not in self._ids}
        self.duplicates += len(ids) - len(first)
        return sorted(first.values())

    def add(self, image_id: str, pixels: torch.Tensor, label: int) -> bool:
        """Add one labelled image (3, 32, 32) uint8; returns False if its id is a duplicate.

        Raises:
            ValueError: the label is not a class.
        """
        if not 0 <= label < self.classes:
            raise ValueError(f"label {label} is not one of {self.classes} classes")
        if image_id in self._ids:
            self.duplicates += 1
            return False
        self._ids[image_id] = None
        if len(self._ids) > HORIZON:
            self._ids.popitem(last=False)
        self.labelled += 1
        if self.labelled % self._every == 0:
            self.holdout.add(pixels, label)
        elif (displaced := self.recent.add(pixels, label)) is not None:
            self.reservoir.add(*displaced)
        return True

    def class_counts(self) -> tuple[int, ...]:
        """Number of images available for training per class."""
        labels = torch.cat([self.recent.newest(len(self.recent)).labels, self.reservoir.images().labels])
        return tuple(torch.bincount(labels, minlength=self.classes).tolist())

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON-serialisable state from which `load` restores the buffer."""
        recent, kept, held = (
            self.recent.newest(len(self.recent)),
            self.reservoir.images(),
            self.holdout.newest(10**9),
        )
        tensors = {
            "recent.pixels": recent.pixels,
            "recent.labels": recent.labels,
            "reservoir.pixels": kept.pixels,
            "reservoir.labels": kept.labels,
            "reservoir.seen": self.reservoir.seen,
            "reservoir.full": self.reservoir.full,
            "holdout.pixels": held.pixels,
            "holdout.labels": held.labels,
        }
        state = {
            "recent_added": self.recent.added,
            "holdout_added": self.holdout.added,
            "labelled": self.labelled,
            "duplicates": self.duplicates,
            "ids": list(self._ids),
        }
        return tensors, state

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Restore the dump of a buffer with the same sizes."""
        self.recent.restore(Images(tensors["recent.pixels"], tensors["recent.labels"]), state["recent_added"])
        self.holdout.restore(Images(tensors["holdout.pixels"], tensors["holdout.labels"]), state["holdout_added"])
        self.reservoir.size = len(tensors["reservoir.labels"])
        self.reservoir.pixels[: self.reservoir.size] = tensors["reservoir.pixels"]
        self.reservoir.labels[: self.reservoir.size] = tensors["reservoir.labels"]
        self.reservoir.seen.copy_(tensors["reservoir.seen"])
        self.reservoir.full.copy_(tensors["reservoir.full"])
        self.labelled, self.duplicates = state["labelled"], state["duplicates"]
        ids: Sequence[str] = state["ids"]
        self._ids = OrderedDict.fromkeys(ids)
