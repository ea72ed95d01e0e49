"""Detect drift of the inputs without labels, against earlier images or against a reference set."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import stats

from cifarctl.data import Images

# Hand-chosen; each line says what the value trades off.
ALPHA = 1e-3  # false-alarm probability of one comparison with the reference; lower: a longer delay
MIN_IMAGES = 50  # minimum images for a comparison; fewer would have little power
WINDOW = 100  # newest images, compared with the earlier ones; more: finds smaller drifts, later
HISTORY = 500  # newest and earlier images together; more: finds smaller drifts, costs time
INTERVAL = 25  # images between two comparisons; fewer: a shorter delay, more CPU time
CHANGE_ALPHA = 1e-4  # false-alarm probability of one comparison; low, as there are many per stream
FEATURES = 9  # columns of `features`


def features(pixels: torch.Tensor) -> torch.Tensor:
    """Nine summary statistics (N, 9) float32 of images (N, 3, 32, 32) uint8.

    They are the mean and standard deviation of each channel, the differences red - green and green - blue of the means,
    and the mean absolute difference of horizontal neighbours, which noise raises and blur lowers.
    """
    scaled = pixels.float() / 255
    means, deviations = scaled.mean(dim=(2, 3)), scaled.std(dim=(2, 3))
    steps = (scaled[..., 1:] - scaled[..., :-1]).abs().mean(dim=(1, 2, 3))
    return torch.cat([means, deviations, means[:, :1] - means[:, 1:2], means[:, 1:2] - means[:, 2:], steps[:, None]], 1)


class Movement:
    """Detects a change in the distribution of per-image statistics along a stream.

    Every `INTERVAL` images the newest `WINDOW` ones are compared with those before them, by one two-sample
    Kolmogorov-Smirnov test per column with the Bonferroni correction. Sources: Rabanser et al. 2019, Failing Loudly;
    windows as in KSWIN, Raab et al. 2020.
    """

    def __init__(self, columns: int = FEATURES) -> None:
        self._columns = columns
        self._seen = torch.empty(0, columns)
        self._count = 0

    def update(self, values: torch.Tensor) -> int | None:
        """Process statistics (N, columns); returns how many of the newest images follow a change, or None."""
        found, taken = None, 0
        while taken < len(values):
            part = values[taken : taken + INTERVAL - self._count % INTERVAL]
            self._seen = torch.cat([self._seen, part])[-HISTORY:]
            self._count += len(part)
            taken += len(part)
            if self._count % INTERVAL == 0 and len(self._seen) >= 2 * WINDOW and (since := self._look()) is not None:
                found = since + len(values) - taken
        return found

    def reset(self) -> None:
        """Discard all statistics, as when their source (the champion) has changed."""
        self._seen = torch.empty(0, self._columns)
        self._count = 0

    def dump(self) -> torch.Tensor:
        """The statistics (N + 1, columns); the last row holds the number of images since the last comparison."""
        return torch.cat([self._seen, torch.full((1, self._columns), float(self._count % INTERVAL))])

    def load(self, dumped: torch.Tensor) -> None:
        """Restore a dump."""
        self._seen, self._count = dumped[:-1].clone(), int(dumped[-1, 0])

    def _look(self) -> int | None:
        before, now = self._seen[:-WINDOW], self._seen[-WINDOW:]
        p_values = _compare(now, before)
        column = int(np.argmin(p_values))
        if p_values[column] >= CHANGE_ALPHA / len(p_values):
            return None
        since = len(self._seen) - _split(self._seen[:, column])
        self._seen = self._seen[-since:]
        return since


class InputMonitor:
    """Compares images with a reference set by one two-sample Kolmogorov-Smirnov test per feature.

    Univariate tests with the Bonferroni correction detect input shift about as well as multivariate ones. Source:
    Rabanser et al. 2019, Failing Loudly.
    """

    def __init__(self, reference: Images) -> None:
        self._reference_images = reference

    @cached_property
    def _reference(self) -> torch.Tensor:
        return features(self._reference_images.pixels)

    def moved(self, images: Images) -> bool:
        """Whether the distribution of `images` differs from the reference; False for fewer than 50 images."""
        if len(images) < MIN_IMAGES:
            return False
        p_values = _compare(features(images.pixels), self._reference)
        return bool(min(p_values) < ALPHA / len(p_values))


def _compare(some: torch.Tensor, others: torch.Tensor) -> list[float]:
    """P-values (one per column) of the null hypothesis that two sets (N, F), (M, F) have the same distribution."""
    return [
        float(stats.ks_2samp(some[:, column].numpy(), others[:, column].numpy()).pvalue)
        for column in range(some.shape[1])
    ]


def _split(values: torch.Tensor) -> int:
    """The least-squares change point of the mean of `values` (N,): the index of the first value after it."""
    total = values.double().cumsum(0)
    left = torch.arange(1, len(values))
    right = len(values) - left
    difference = total[:-1] / left - (total[-1] - total[:-1]) / right
    return int((left * right * difference.square()).argmax()) + 1
