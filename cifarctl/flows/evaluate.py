"""The figures of a version on the test images."""

from __future__ import annotations

from contextlib import suppress

from cifarctl.data import Dataset, split
from cifarctl.errors import RegistryError
from cifarctl.events import EvaluateResult
from cifarctl.flows.predict import predict
from cifarctl.registry import Registry, SplitRecord, validation
from cifarctl.registry.compatibility import require_compatible
from cifarctl.registry.loading import LoadedModel
from cifarctl.training.metrics import measure


def evaluate(model: LoadedModel, dataset: Dataset) -> EvaluateResult:
    """The figures of a version on the test images of `dataset`, in float32.

    Returns:
        Accuracies are shares from 0 to 1, by class under the classes' names; `loss` is the cross-entropy in nats, `ece`
        the expected calibration error; `confusion[i][j]` counts images of class i predicted as class j.

    Raises:
        DataError: the data set has other classes than the version.

    Example:
        >>> from cifarctl import Registry, Settings, data, evaluate, load_version
        >>> settings = Settings()
        >>> model = load_version(Registry(settings.registry), "production")
        >>> result = evaluate(model, data.load(settings.data))
        >>> result.version
        1
        >>> 0.5 < result.accuracy < 1
        True
        >>> list(result.per_class) == list(model.manifest.classes)
        True
    """
    manifest = model.manifest
    require_compatible(manifest, dataset.name, dataset.classes)
    metrics = measure(predict(model, dataset.test.pixels), dataset.test.labels)
    return EvaluateResult(
        version=manifest.version,
        accuracy=metrics.accuracy,
        loss=metrics.loss,
        ece=metrics.ece,
        per_class=dict(zip(dataset.classes, metrics.per_class, strict=True)),
        confusion=metrics.confusion.tolist(),
    )


def keep_validation_images(registry: Registry, record: SplitRecord, dataset: Dataset) -> None:
    """Leave the validation images of a version's split in the registry, where serve checks backends on them.

    It does nothing where they are there already, where `dataset` is split otherwise, or in a read-only registry.
    """
    if validation.path(registry, record.sha256).exists():
        return
    division = split(dataset.train.labels, record.shares, record.seed)
    if division.sha256 == record.sha256:
        images = dataset.train.take(division.validation)
        with suppress(RegistryError):  # who may only read a registry may evaluate all the same
            validation.save(registry, record.sha256, images.pixels, images.labels)
