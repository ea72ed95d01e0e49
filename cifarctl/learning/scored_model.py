"""A model that is measured beside others."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl.data import Images
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.predictor import Precision, Predictor, autocast
from cifarctl.online.estimate import likely_right, threshold


class ScoredModel:
    """Its predictions, and how often it is right on the validation images or, without labels, likely to be."""

    def __init__(self, predictor: Predictor, validation: Images, classes: int) -> None:
        self.predictor = predictor
        self._images, self._classes = validation, classes

    @cached_property
    def validation(self) -> torch.Tensor:
        """Accuracy (classes,) on the validation images of each class; of a class without any, 0."""
        labels = self._images.labels
        right = torch.from_numpy(self.right(self._images)).float()
        hits = torch.bincount(labels, right, minlength=self._classes)
        return hits / torch.bincount(labels, minlength=self._classes).clamp(min=1)

    def right(self, images: Images) -> NDArray[np.bool_]:
        """Which images (N,) it gets right."""
        if not len(images):
            return np.empty(0, dtype=np.bool_)
        right: NDArray[np.bool_] = (self.predictor(images.pixels).argmax(dim=1) == images.labels).numpy()
        return right

    def differs(self, other: ScoredModel, pixels: torch.Tensor, precision: Precision) -> float:
        """Share of images (N, 3, 32, 32) uint8 that it answers otherwise than another one; of none, 1."""
        if not len(pixels):
            return 1.0
        one, two = (judged.predictor.using(precision)(pixels).argmax(dim=1) for judged in (self, other))
        return float((one != two).float().mean())

    def likely(
        self, window: torch.Tensor, alike: torch.Tensor, labels: torch.Tensor, precision: Precision, *, follows: bool
    ) -> NDArray[np.bool_]:
        """Which images (N, 3, 32, 32) uint8 of a window it is likely to get right, by labelled normalised ones alike.

        `follows`: it was made under this window, so that of what follows the stream the statistics were of its images.
        """
        model = self.predictor.model
        with torch.inference_mode(), autocast(alike.device, precision):
            known = (model.adapted(alike) if follows and isinstance(model, Mixture) else model)(alike)
        least = threshold(known.float().softmax(dim=1), labels)
        right: NDArray[np.bool_] = likely_right(self.predictor.using(precision)(window), least).numpy()
        return right
