"""How often a model is right where nothing is labelled: as often as it is as sure as it is when right elsewhere.

Garg et al. 2022, Leveraging Unlabeled Data to Predict Out-of-Distribution Performance (ICLR): Average Thresholded
Confidence with negative entropy. On labelled images that look like the unlabelled ones the estimate errs by a few
points; on images of quite another kind it errs by more, mostly upwards.
"""

from __future__ import annotations

import torch


def threshold(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """How sure a model must be to count as right: so that of labelled images as many do as it gets right.

    `probabilities` (N, classes), N at least 1, `labels` (N,).
    """
    accuracy = (probabilities.argmax(dim=1) == labels).float().mean()
    return float(torch.quantile(_sureness(probabilities), 1 - accuracy))


def likely_right(probabilities: torch.Tensor, least: float) -> torch.Tensor:
    """Which images of `probabilities` (N, classes) count as predicted right, (N,) bool, by the threshold `least`."""
    return _sureness(probabilities) >= least


def _sureness(probabilities: torch.Tensor) -> torch.Tensor:
    """Negative entropy in nats, (N,)."""
    return torch.xlogy(probabilities, probabilities).sum(dim=1)
