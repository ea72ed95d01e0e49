"""The course of a stream: which image is at each position, how it looks, and when its label arrives."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cifarctl.data.scenario import Scenario
from cifarctl.data.types import Images


@dataclass(frozen=True)
class Passage:
    """Consecutive images of a stream.

    `pixels` (B, 3, 32, 32) uint8, drift applied; `concept` (B,) int64, the correct labels at these positions; `given`
    (B,) int64, the labels sent, -1 for none; `late` (B,) int64, the delay of each label in images.
    """

    pixels: torch.Tensor
    concept: torch.Tensor
    given: torch.Tensor
    late: torch.Tensor

    def __len__(self) -> int:
        return len(self.concept)


class Course:
    """Images in a seeded order under a drift scenario. A stream longer than the images starts over.

    If the scenario sets class frequencies, a class is drawn for each position and its next image is taken; a class
    without images left starts over. `repeats_from` is the first position with a repeated image, None while unknown.
    """

    def __init__(self, images: Images, scenario: Scenario, seed: int, classes: int) -> None:
        """Prepare the course; labels are 0 to `classes` - 1.

        Raises:
            SettingsError: the scenario names a class that does not exist, or leaves no class to draw from.
        """
        held = torch.bincount(images.labels, minlength=classes) > 0
        scenario.check(held)
        self._images, self._scenario, self._seed, self._held = images, scenario, seed, held
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffled = torch.randperm(len(images), generator=self._generator)
        self._chosen = array("q")  # the image at each position so far, if the scenario sets class frequencies
        self._queues: list[list[int]] = [self._of(label) for label in range(classes)]
        self.repeats_from: int | None = None if scenario.uses("prior", "classes") else len(images)

    def take(self, start: int, size: int) -> Passage:
        """The images at positions `start`..`start + size - 1`; the result does not depend on the batch boundaries."""
        index = self._index(start, size)
        # NumPy's indexing copies whole images, which is faster than torch's here.
        pixels = torch.from_numpy(self._images.pixels.numpy()[index.numpy()])
        concept = self._scenario.concept(self._images.labels[index], start)
        return Passage(
            pixels=self._scenario.apply(pixels, start, self._seed),
            concept=concept,
            given=self._scenario.given(concept, start, self._seed, len(self._held)),
            late=self._scenario.late(start, size),
        )

    def _index(self, start: int, size: int) -> torch.Tensor:
        if not self._scenario.uses("prior", "classes"):
            return self._shuffled[torch.arange(start, start + size) % len(self._images)]
        while len(self._chosen) < start + size:
            self._chosen.append(self._choose(len(self._chosen)))
        return torch.tensor(self._chosen[start : start + size])

    def _choose(self, position: int) -> int:
        """Draw the next image: its class by this position's weights, otherwise by the number of images left."""
        wanted = self._scenario.weights(position, len(self._held))
        if wanted is not None:
            chances = wanted * self._held
        else:
            if not any(self._queues):
                self._restart(range(len(self._held)), position)
            chances = torch.tensor([len(queue) for queue in self._queues], dtype=torch.float64)
        label = int(torch.multinomial(chances, 1, generator=self._generator))
        if not self._queues[label]:
            self._restart([label], position)
        return self._queues[label].pop()

    def _restart(self, labels: Iterable[int], position: int) -> None:
        if self.repeats_from is None:
            self.repeats_from = position
        for label in labels:
            self._queues[label] = self._of(label)

    def _of(self, label: int) -> list[int]:
        """Indices of a class's images in reverse order, as they are popped from the end."""
        order = self._shuffled.flip(0)
        index: list[int] = order[self._images.labels[order] == label].tolist()
        return index
