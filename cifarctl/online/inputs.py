"""Have the inputs themselves moved? From what they were just now, or from the validation images; without labels."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import stats

from cifarctl.data import Images

ALPHA = 1e-3  # of a false alarm, over all features together
MIN_IMAGES = 50  # images below which nothing is said
WINDOW = 100  # newest images that are compared with those before them
HISTORY = 500  # images that are compared, in all
INTERVAL = 25  # images from one look to the next
CHANGE_ALPHA = 1e-4  # of a false alarm at one look, over all columns together
FEATURES = 9


def features(pixels: torch.Tensor) -> torch.Tensor:
    """Nine summary statistics of each image (N, 3, 32, 32) uint8: (N, 9) float32.

    Mean and deviation of each channel, the two differences between neighbouring channels' means, and the mean step
    between neighbouring pixels, which noise raises and blur lowers.
    """
    scaled = pixels.float() / 255
    means, deviations = scaled.mean(dim=(2, 3)), scaled.std(dim=(2, 3))
    steps = (scaled[..., 1:] - scaled[..., :-1]).abs().mean(dim=(1, 2, 3))
    return torch.cat([means, deviations, means[:, :1] - means[:, 1:2], means[:, 1:2] - means[:, 2:], steps[:, None]], 1)


class Movement:
    """Notices that what is told of the images of a stream is otherwise than of those just before.

    Every few images the newest ones are compared with those before them by two-sample Kolmogorov-Smirnov tests, one a
    column (Rabanser et al. 2019, Failing Loudly; windows as in KSWIN: Raab et al. 2020).
    """

    def __init__(self, columns: int = FEATURES) -> None:
        self._columns = columns
        self._seen = torch.empty(0, columns)
        self._count = 0

    def update(self, told: torch.Tensor) -> int | None:
        """Take in what is told of images (N, columns); about how many of the newest are of another kind, or None."""
        found, taken = None, 0
        while taken < len(told):
            part = told[taken : taken + INTERVAL - self._count % INTERVAL]
            self._seen = torch.cat([self._seen, part])[-HISTORY:]
            self._count += len(part)
            taken += len(part)
            if self._count % INTERVAL == 0 and len(self._seen) >= 2 * WINDOW and (since := self._look()) is not None:
                found = since + len(told) - taken
        return found

    def reset(self) -> None:
        """Begin anew, as after what tells of images was exchanged."""
        self._seen = torch.empty(0, self._columns)
        self._count = 0

    def dump(self) -> torch.Tensor:
        """What it compares (N, columns), and in a last row how many images it has taken in."""
        return torch.cat([self._seen, torch.full((1, self._columns), float(self._count % INTERVAL))])

    def load(self, dumped: torch.Tensor) -> None:
        """Take over a dump."""
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
        if len(images) < MIN_IMAGES:
            return False
        p_values = _compare(features(images.pixels), self._reference)
        return bool(min(p_values) < ALPHA / len(p_values))


def _compare(some: torch.Tensor, others: torch.Tensor) -> list[float]:
    """P-values of the test that two sets (N, F), (M, F) are of one distribution, one a column."""
    return [
        float(stats.ks_2samp(some[:, column].numpy(), others[:, column].numpy()).pvalue)
        for column in range(some.shape[1])
    ]


def _split(values: torch.Tensor) -> int:
    """Where the mean of the values (N,) most likely changed: the split whose two sides differ most."""
    total = values.double().cumsum(0)
    left = torch.arange(1, len(values))
    right = len(values) - left
    difference = total[:-1] / left - (total[-1] - total[:-1]) / right
    return int((left * right * difference.square()).argmax()) + 1
