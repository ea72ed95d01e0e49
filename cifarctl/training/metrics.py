"""Figures of a model on labelled images: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cifarctl.data import Images
from cifarctl.models.predictor import Predictor

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """Figures over N images; `confusion[i, j]` (classes, classes) counts images of class i predicted as j."""

    accuracy: float
    loss: float
    ece: float
    per_class: tuple[float | None, ...]
    confusion: torch.Tensor


def evaluate(predictor: Predictor, images: Images) -> Metrics:
    """Accuracy, cross-entropy (nats), calibration error and confusion of `predictor` on `images`."""
    return measure(predictor(images.pixels), images.labels)


def measure(probabilities: torch.Tensor, labels: torch.Tensor) -> Metrics:
    """The figures of probabilities (N, C) against labels (N,) int64."""
    classes = probabilities.shape[1]
    confidence, predicted = probabilities.max(dim=1)
    correct = predicted == labels
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    totals: Sequence[int] = confusion.sum(dim=1).tolist()
    hits: Sequence[int] = confusion.diagonal().tolist()
    chosen = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return Metrics(
        accuracy=correct.double().mean().item(),
        loss=-chosen.clamp_min(1e-12).log().mean().item(),
        ece=calibration_error(confidence, correct),
        per_class=tuple(hit / total if total else None for hit, total in zip(hits, totals, strict=True)),
        confusion=confusion,
    )


def calibration_error(confidence: torch.Tensor, correct: torch.Tensor) -> float:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, On Calibration of Modern Neural Networks).

    The mean over all images of |accuracy − confidence| of the bin that the image falls in.
    """
    bins = (confidence * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)  # not-a-number becomes negative
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum().item() / len(confidence)
