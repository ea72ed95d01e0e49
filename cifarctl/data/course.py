"""The course of a stream: the order of its images, how drift changes them, and what happens to their labels."""

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

    `pixels` (B, 3, 32, 32) uint8 as they arrive; `concept` (B,) int64, the correct labels at that time; `given` (B,),
    the labels that are sent, -1 for none; `late` (B,), by how many images each of them comes later than its own.
    """

    pixels: torch.Tensor
    concept: torch.Tensor
    given: torch.Tensor
    late: torch.Tensor

    def __len__(self) -> int:
        return len(self.concept)


class Course:
    """Images in a seeded order, changed by a scenario. A stream longer than the images starts again.

    Where the scenario asks for some classes more than for others, each position takes the next image of its class; a
    class without images left starts again. `repeats_from` is the position of the first image that comes a second time,
    None as long as that is not known.
    """

    def __init__(self, images: Images, scenario: Scenario, seed: int, classes: int) -> None:
        """Nothing is drawn yet; labels are 0 to `classes` - 1.

        Raises:
            SettingsError: the scenario names a class that does not exist, or leaves no class to choose from.
        """
        held = torch.bincount(images.labels, minlength=classes) > 0
        scenario.check(held)
        self._images, self._scenario, self._seed, self._held = images, scenario, seed, held
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffled = torch.randperm(len(images), generator=self._generator)
        self._chosen = array("q")  # the image of each position so far, where classes decide
        self._queues: list[list[int]] = [self._of(label) for label in range(classes)]
        self.repeats_from: int | None = None if scenario.uses("prior", "classes") else len(images)

    def take(self, start: int, size: int) -> Passage:
        """The images at positions `start`..`start + size - 1`; does not depend on how the stream is divided."""
        index = self._index(start, size)
        # NumPy copies image by image; torch's indexing goes by the pixel, or sets up threads for a millisecond's work.
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
        """The next image: its class by the weights of this position, else by how many images each has left."""
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
        """The images of a class; popped from the end, so the first one is last."""
        order = self._shuffled.flip(0)
        index: list[int] = order[self._images.labels[order] == label].tolist()
        return index
