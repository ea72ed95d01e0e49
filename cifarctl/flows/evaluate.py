"""Figures of a model on labelled images: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from cifarctl.data import Dataset, Images, split
from cifarctl.errors import DataError, RegistryError
from cifarctl.events import EvaluateResult
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Registry, SplitRecord, validation
from cifarctl.registry.loading import load

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


def evaluate_version(registry: Registry, version: int, dataset: Dataset) -> EvaluateResult:
    """The figures of a version on the test images, in float32.

    Where the registry lacks the validation images that serve checks backends on, they are left there.

    Raises:
        RegistryError: the version cannot be loaded.
        DataError: the data set has other classes than the version.
    """
    loaded = load(registry, version)
    manifest = loaded.manifest
    if manifest.classes != dataset.classes:
        raise DataError(
            f"version {manifest.version} knows the classes {', '.join(manifest.classes[:3])}, ..., the data set "
            f"{dataset.name} has {', '.join(dataset.classes[:3])}, ...; set data.source and data.dir as then"
        )
    metrics = evaluate(loaded.predictor(), dataset.test)
    _keep_validation_images(registry, manifest.split, dataset)
    return EvaluateResult(
        version=manifest.version,
        accuracy=metrics.accuracy,
        loss=metrics.loss,
        ece=metrics.ece,
        per_class=dict(zip(dataset.classes, metrics.per_class, strict=True)),
        confusion=metrics.confusion.tolist(),
    )


def _keep_validation_images(registry: Registry, record: SplitRecord, dataset: Dataset) -> None:
    if validation.path(registry, record.sha256).exists():
        return
    division = split(dataset.train.labels, record.shares, record.seed)
    if division.sha256 == record.sha256:
        images = dataset.train.take(division.validation)
        with suppress(RegistryError):  # who may only read a registry may evaluate all the same
            validation.save(registry, record.sha256, images.pixels, images.labels)
