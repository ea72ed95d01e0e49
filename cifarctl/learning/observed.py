"""The stream as the learner has seen it: images that arrived, labels that came, and the concept they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cifarctl.data import Images
from cifarctl.online.buffer import ReplayBuffer, Ring
from cifarctl.online.concept import ARRIVED, MIN_LABELLED, Concept
from cifarctl.online.inputs import InputMonitor
from cifarctl.registry.checkpoint import within
from cifarctl.settings import OnlineSettings

#: Newest held-out images that a snapshot must not lose on; older ones are more likely to be of an earlier concept.
HELD_OUT = 25


class ObservedStream:
    """Numbers images in the order of their arrival, and keeps those to learn from and to judge by.

    `buffer` holds the labelled images, `concept` the drift detectors; the newest images are kept without their labels,
    too, as labels may come late or never.
    """

    def __init__(
        self, settings: OnlineSettings, classes: tuple[str, ...], validation: Images, generator: torch.Generator
    ) -> None:
        """`validation` images show what the inputs looked like before any drift."""
        self._holdout_every = settings.holdout_every
        self.concept = Concept(settings.detector, classes, settings.seed)
        self.buffer = ReplayBuffer(
            settings.buffer_size,
            len(classes),
            holdout_size=settings.holdout_size,
            holdout_every=settings.holdout_every,
            generator=generator,
        )
        self._arrived = Ring(ARRIVED)
        self._inputs = InputMonitor(validation)

    @property
    def seen(self) -> int:
        """Images that have arrived, labelled or not: the number of the next one."""
        return self._arrived.added

    @property
    def now(self) -> int:
        """The date of a decision: images that have arrived and labels that have come."""
        return self.seen + self.buffer.labelled

    @property
    def few_labels(self) -> bool:
        """Whether too few images of the present concept have labels to judge by."""
        return self.concept.labelled < MIN_LABELLED

    def arrive(self, pixels: torch.Tensor) -> None:
        """Take in images (N, 3, 32, 32) uint8, whether their labels are known or not."""
        for image in pixels:
            self._arrived.add(image, -1)

    def newest(self, count: int) -> Images:
        """The newest `count` images that have arrived, without their labels."""
        return self._arrived.newest(count)

    def window(self) -> Images:
        """The newest images of the present concept, labelled or not, without their labels."""
        return self.newest(min(ARRIVED, self.seen - self.concept.began))

    def labelled(self, count: int) -> Images:
        """The newest images to train on since the last drift, at most `count`."""
        trained_share = 1 - 1 / self._holdout_every
        return self.buffer.recent.newest(min(count, int(self.concept.labelled * trained_share)))

    def held_out(self) -> Images:
        """The newest held-out images of the present concept."""
        labelled, every = self.buffer.labelled, self._holdout_every
        present = labelled // every - (labelled - self.concept.labelled) // every
        return self.buffer.holdout.newest(min(HELD_OUT, present))

    def moved(self, images: Images) -> bool:
        """Whether `images` look different from the validation images."""
        return self._inputs.moved(images)

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
        """Tensors, and the JSON-able states of the buffer and of the concept."""
        tensors, buffer = self.buffer.dump()
        detectors, concept = self.concept.dump()
        tensors["arrived"] = self.newest(ARRIVED).pixels
        return tensors | {f"concept/{name}": tensor for name, tensor in detectors.items()}, buffer, concept

    def load(
        self, tensors: Mapping[str, torch.Tensor], buffer: dict[str, Any], concept: dict[str, Any], seen: int
    ) -> None:
        """Restore a dump of a stream of which `seen` images had arrived."""
        self.buffer.load(tensors, buffer)
        self.concept.load(within("concept/", tensors), concept)
        pixels = tensors["arrived"]
        self._arrived.restore(Images(pixels, torch.full((len(pixels),), -1)), seen)
