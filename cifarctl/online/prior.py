"""How often the classes come at present, from what a model says, without labels."""

from __future__ import annotations

import torch

ITERATIONS = 50
PSEUDO_COUNT = 5.0  # images of each class that are imagined beforehand: few images tell little


def estimate(probabilities: torch.Tensor) -> torch.Tensor:
    """Class frequencies (classes,) that explain the probabilities (N, classes) of a model that knew equal ones.

    Expectation maximisation of Saerens et al. 2002, Adjusting the Outputs of a Classifier to New a Priori
    Probabilities. No labels are read: they may be wrong on purpose.
    """
    count, classes = probabilities.shape
    frequencies = torch.full((classes,), 1 / classes)
    for _ in range(ITERATIONS):
        weighed = probabilities * frequencies
        expected = (weighed / weighed.sum(dim=1, keepdim=True)).sum(dim=0)
        frequencies = (expected + PSEUDO_COUNT) / (count + PSEUDO_COUNT * classes)
    return frequencies
