"""``cifarctl eval``: the figures of a version on the test images."""

from __future__ import annotations

from contextlib import suppress

from cifarctl.data import Dataset, split
from cifarctl.errors import RegistryError
from cifarctl.events import EvaluateResult
from cifarctl.registry import Registry, SplitRecord, validation
from cifarctl.registry.compatibility import require_compatible
from cifarctl.registry.loading import load
from cifarctl.training.metrics import evaluate


def evaluate_version(registry: Registry, version: int, dataset: Dataset) -> EvaluateResult:
    """The figures of a version on the test images, in float32.

    Where the registry lacks the validation images that serve checks backends on, they are added.

    Raises:
        RegistryError: the version cannot be loaded.
        DataError: the data set has other classes than the version.
    """
    loaded = load(registry, version)
    manifest = loaded.manifest
    require_compatible(manifest, dataset.name, dataset.classes)
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
        with suppress(RegistryError):  # a registry that is read-only can be evaluated too
            validation.save(registry, record.sha256, images.pixels, images.labels)
