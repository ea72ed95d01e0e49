"""Estimate accuracy without labels, by average thresholded confidence (ATC) with negative entropy.

The threshold is chosen on labelled images such that the fraction of images above it equals the accuracy. The estimate
for unlabelled images is the fraction above the same threshold. If the two sets look alike the error is a few percentage
points; otherwise it is larger, and mostly an overestimate. Source: Garg et al. 2022, Leveraging Unlabeled Data to
Predict Out-of-Distribution Performance (ICLR).
"""

from __future__ import annotations

import torch


def threshold(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """The confidence threshold that as many labelled images reach as the model classifies correctly.

    Args:
        probabilities: (N, classes), N at least 1.
        labels: (N,) int64.

    Returns:
        Negative entropy in nats.
    """
    accuracy = (probabilities.argmax(dim=1) == labels).float().mean()
    return float(torch.quantile(_confidence(probabilities), 1 - accuracy))


def likely_right(probabilities: torch.Tensor, least: float) -> torch.Tensor:
    """Which predictions `probabilities` (N, classes) reach the threshold `least`, (N,) bool: they count as right."""
    return _confidence(probabilities) >= least


def _confidence(probabilities: torch.Tensor) -> torch.Tensor:
    """Negative entropy in nats, (N,)."""
    return torch.xlogy(probabilities, probabilities).sum(dim=1)
