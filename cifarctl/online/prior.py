"""Estimate the current class frequencies without labels."""

from __future__ import annotations

import torch

ITERATIONS = 50  # of expectation maximisation; hand-chosen, more: closer to convergence, slower
PSEUDO_COUNT = 5.0  # virtual images per class, as a prior; hand-chosen, more: less noise from few images, more bias


def estimate(probabilities: torch.Tensor) -> torch.Tensor:
    """The class frequencies (classes,) most likely to give the predicted probabilities (N, classes).

    The model must have been trained on equal class frequencies. Labels are not used, as they may be poisoned. Source:
    Saerens et al. 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities (expectation maximisation).
    """
    count, classes = probabilities.shape
    frequencies = torch.full((classes,), 1 / classes)
    for _ in range(ITERATIONS):
        weighed = probabilities * frequencies
        expected = (weighed / weighed.sum(dim=1, keepdim=True)).sum(dim=0)
        frequencies = (expected + PSEUDO_COUNT) / (count + PSEUDO_COUNT * classes)
    return frequencies
