"""A model together with its scores."""

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
    """A model whose accuracy is measured on validation images or, without labels, estimated."""

    def __init__(self, predictor: Predictor, validation: Images, classes: int) -> None:
        self.predictor = predictor
        self._images, self._classes = validation, classes

    @cached_property
    def validation(self) -> torch.Tensor:
        """Accuracy (classes,) on the validation images of each class; 0 for a class without images."""
        labels = self._images.labels
        right = torch.from_numpy(self.right(self._images)).float()
        hits = torch.bincount(labels, right, minlength=self._classes)
        return hits / torch.bincount(labels, minlength=self._classes).clamp(min=1)

    def right(self, images: Images) -> NDArray[np.bool_]:
        """Which images (N,) it predicts correctly."""
        if not len(images):
            return np.empty(0, dtype=np.bool_)
        right: NDArray[np.bool_] = (self.predictor(images.pixels).argmax(dim=1) == images.labels).numpy()
        return right

    def differs(self, other: ScoredModel, pixels: torch.Tensor, precision: Precision) -> float:
        """Share of images (N, 3, 32, 32) uint8 on which its predictions differ from another model's; 1 if N is 0."""
        if not len(pixels):
            return 1.0
        one, two = (judged.predictor.using(precision)(pixels).argmax(dim=1) for judged in (self, other))
        return float((one != two).float().mean())

    def likely(
        self, window: torch.Tensor, alike: torch.Tensor, labels: torch.Tensor, precision: Precision, *, follows: bool
    ) -> NDArray[np.bool_]:
        """Which images (N, 3, 32, 32) uint8 of a window it probably predicts correctly.

        The estimate rests on `alike`: labelled, normalised images made to look like the window (`online.estimate`).
        `follows`: the model was made under this window, so a mixture's statistics were of such images.
        """
        model = self.predictor.model
        with torch.inference_mode(), autocast(alike.device, precision):
            known = (model.adapted(alike) if follows and isinstance(model, Mixture) else model)(alike)
        least = threshold(known.float().softmax(dim=1), labels)
        right: NDArray[np.bool_] = likely_right(self.predictor.using(precision)(window), least).numpy()
        return right
