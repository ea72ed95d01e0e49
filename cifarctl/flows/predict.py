"""Class probabilities of images in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl.errors import DataError
from cifarctl.registry.loading import LoadedModel

CHANNELS_LAST, CHANNELS_FIRST = (32, 32, 3), (3, 32, 32)


def predict(model: LoadedModel, images: torch.Tensor | NDArray[np.uint8]) -> torch.Tensor:
    """Class probabilities of `images`, in float32.

    Args:
        model: a version, as `load_version` gives it.
        images: (n, 32, 32, 3), as pictures usually are, or (n, 3, 32, 32), as the data set has them; uint8, channels in
            the order red, green, blue; not changed. Any n, also 0; they are computed in batches. They are normalised
            here, by the version's own means and deviations.

    Returns:
        (n, classes) float32 on the CPU; each row sums to 1. Column i belongs to `model.manifest.classes[i]`.

    Raises:
        DataError: the images have another shape or another type.

    Example:
        >>> import numpy as np
        >>> from cifarctl import Registry, Settings, load_version, predict
        >>> model = load_version(Registry(Settings().registry), "production")
        >>> images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
        >>> probabilities = predict(model, images)
        >>> probabilities.shape
        torch.Size([2, 10])
        >>> names = [model.manifest.classes[label] for label in probabilities.argmax(dim=1)]
        >>> len(names)
        2
        >>> predict(model, images / 255)
        Traceback (most recent call last):
        cifarctl.errors.DataError: images are float64: give uint8, 0 to 255; normalising is done here
    """
    pixels = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.array(images))
    if pixels.dtype != torch.uint8:
        kind = str(pixels.dtype).removeprefix("torch.")
        raise DataError(f"images are {kind}: give uint8, 0 to 255; normalising is done here")
    if pixels.shape[1:] == CHANNELS_LAST:
        pixels = pixels.permute(0, 3, 1, 2)
    elif pixels.shape[1:] != CHANNELS_FIRST:
        raise DataError(
            f"images have the shape {tuple(pixels.shape)}: give (n, 32, 32, 3) or (n, 3, 32, 32); one image is "
            "image[None]"
        )
    return model.predictor()(pixels)
