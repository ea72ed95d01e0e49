"""Have the inputs themselves moved? Recent images against the validation images, without labels."""

from __future__ import annotations

from functools import cached_property

import torch
from scipy import stats

from cifarctl.data import Images

ALPHA = 1e-3  # of a false alarm, over all features together
FEWEST = 50  # images below which nothing is said


def features(pixels: torch.Tensor) -> torch.Tensor:
    """Nine summary statistics of each image (N, 3, 32, 32) uint8: (N, 9) float32.

    Mean and deviation of each channel, the two differences between neighbouring channels' means, and the mean step
    between neighbouring pixels, which noise raises and blur lowers.
    """
    scaled = pixels.float() / 255
    means, deviations = scaled.mean(dim=(2, 3)), scaled.std(dim=(2, 3))
    steps = (scaled[..., 1:] - scaled[..., :-1]).abs().mean(dim=(1, 2, 3))
    return torch.cat([means, deviations, means[:, :1] - means[:, 1:2], means[:, 1:2] - means[:, 2:], steps[:, None]], 1)


class InputMonitor:
    """Compares images with a reference set by two-sample Kolmogorov-Smirnov tests, one a feature.

    Rabanser et al. 2019, Failing Loudly: univariate tests with the Bonferroni correction detect shifts of the inputs
    about as well as multivariate ones.
    """

    def __init__(self, reference: Images) -> None:
        self._reference_images = reference

    @cached_property
    def _reference(self) -> torch.Tensor:
        return features(self._reference_images.pixels)

    def moved(self, images: Images) -> bool:
        """Whether `images` are differently distributed than the reference; False for fewer than 50."""
        if len(images) < FEWEST:
            return False
        recent = features(images.pixels)
        p_values = [
            stats.ks_2samp(recent[:, column].numpy(), self._reference[:, column].numpy()).pvalue
            for column in range(recent.shape[1])
        ]
        return bool(min(p_values) < ALPHA / len(p_values))
