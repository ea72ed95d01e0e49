"""Offline training: from labelled images to a version in the registry."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cifarctl import events
from cifarctl.data import Dataset, Images, split_of
from cifarctl.errors import AliasConflict, RegistryError, SettingsError, UntrustedCode
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import Precision, choose_device
from cifarctl.models.threads import use as use_threads
from cifarctl.registry import Description, Manifest, Registry, SplitRecord, checkpoint
from cifarctl.registry import validation as validation_images
from cifarctl.registry.layout import TRAINING
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish, split_record
from cifarctl.settings import Launch, Settings
from cifarctl.training.distribution import team
from cifarctl.training.metrics import Metrics, evaluate, measure
from cifarctl.training.preparation import prepare
from cifarctl.training.run import TrainingRun

MISTAKES = 25  # misclassified test images in a report: a grid of 5 by 5


def train(
    dataset: Dataset,
    settings: Settings,
    *,
    full: bool = False,
    resume: bool = False,
    promote: bool | None = None,
    stop: threading.Event | None = None,
    illustrate: Callable[[events.TrainReport], Mapping[str, bytes]] = lambda _: {},
    launch: Launch | None = None,
) -> Iterator[events.TrainEvent]:
    """Train a model as `settings.train` says, publish it in `settings.registry`, and promote it if it is better.

    `promote` True or False: promote it always, or never. `settings.data` says how the training images are split.
    `full` trains on every training image, validation and stream included. When `stop` is set the run leaves
    its checkpoint and ends without a result; `resume` continues it, bit for bit on the same machine. The version is
    published with the figures of each epoch, a line of JSON each, and with the pictures that `illustrate` draws.

    With a target accuracy the run ends with the epoch that reaches it on the validation images, at the latest after all
    epochs; on the way the learning rate falls to zero more than once.

    Where torchrun has launched several processes, each trains on its part of every batch. The first process yields
    events, evaluates and writes; a process that torchrun restarts continues from the checkpoint.

    Raises:
        SettingsError: a target accuracy with `full`, which leaves no images to measure it on.
        TrainingDiverged: the loss is not finite; the last good checkpoint stays.
        RegistryError: nothing to resume, or the registry cannot be written.
        TeammateLost: another process of the run has ended.

    Long because it documents a public function, with an example.

    Example:
        >>> from cifarctl import Settings, data, train
        >>> from cifarctl.settings import DataSettings, RegistrySettings, TrainSettings
        >>> settings = Settings(
        ...     data=DataSettings(source="synthetic", synthetic_images=500),
        ...     train=TrainSettings(epochs=1, batch_size=32, seed=1, threads=1),
        ...     registry=RegistrySettings(dir="models"),
        ... )
        >>> *_, result = train(data.load(settings.data), settings)  # the events before it report progress
        >>> result.version, result.promoted, result.reason
        (1, True, 'there was no production version')
    """
    options = settings.train
    if full and options.target_accuracy is not None:
        raise SettingsError("train.target_accuracy: --full leaves no images to measure it on; leave one of them out")
    use_threads(options.threads)
    registry = Registry(settings.registry.trusting(options.model))  # the user has named the architecture
    parts = split_of(dataset, settings.data)
    index = torch.arange(len(dataset.train)) if full else parts.train
    held_out = dataset.train.take(parts.validation)
    validation = None if full else held_out
    record = split_record(dataset, parts, settings.data, ("train", "validation", "stream") if full else ("train",))
    with team(launch, choose_device(options.device, "train.device")) as members:
        run = prepare(options, dataset.train, index, len(dataset.classes), members)
        used = options.model_dump(mode="json") | asdict(run.recipe)
        del used["arguments"]  # the manifest has them, with the others
        path = _checkpoint_path(registry, used | run.arguments, record.model_dump(mode="json"))
        _restore_or_begin(run, path, launch, resume=resume)
        for event in run.train(dataset.name, validation, path, stop):
            if members.first:
                yield event
    if run.interrupted or not members.first:
        return

    found = _evaluate(run, dataset)
    pictures = yield from _drawn(illustrate, lambda: found.report(run, dataset))
    manifest = _publish(registry, run, dataset.classes, record, used, found.metrics, pictures)
    validation_images.save(registry, parts.sha256, held_out.pixels, held_out.labels)  # before the version is served
    promoted, reason = _promote(registry, manifest, validation, promote, run.progress.precision)
    checkpoint.discard(path)
    for code in own_code(options.model, run.arguments):
        yield events.Notice(f"to load this version its code must be trusted: set registry.trusted_models = {code}")
    yield _result(run, manifest, promoted, reason)


def _restore_or_begin(run: TrainingRun, path: Path, launch: Launch | None, *, resume: bool) -> None:
    """Continue from the checkpoint, as asked to or as torchrun has restarted the run; else write the first one."""
    if resume or run.team.told(lambda: launch is not None and run.continues(path, launch)):
        run.restore(path)
    elif run.team.first:
        run.save(path)  # from now on there is something to resume


@dataclass(frozen=True)
class _Evaluation:
    """Figures of a trained model for its manifest, and its answers (N, classes) on the test images."""

    metrics: dict[str, float | None]
    answers: torch.Tensor
    served: Metrics

    def report(self, run: TrainingRun, dataset: Dataset) -> events.TrainReport:
        """Learning curve, confusion matrix and misclassified images."""
        return _report(run.progress.epochs, dataset, self.answers, self.served)


def _evaluate(run: TrainingRun, dataset: Dataset) -> _Evaluation:
    """Measure the model on the test images, as it will answer and, where it averages its answers, also plainly."""
    last = run.progress.epochs[-1]
    answers = run.predictor()(dataset.test.pixels)
    served = measure(answers, dataset.test.labels)
    test = evaluate(run.predictor(averaged=False), dataset.test) if run.averaged else served
    metrics = {
        "validation_accuracy": last.validation_accuracy,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
    }
    if run.averaged:
        metrics["validation_accuracy_tta"] = last.validation_accuracy_tta
        metrics["test_accuracy_tta"] = served.accuracy
    return _Evaluation(metrics, answers, served)


def _drawn(
    illustrate: Callable[[events.TrainReport], Mapping[str, bytes]], report: Callable[[], events.TrainReport]
) -> Generator[events.Notice, None, Mapping[str, bytes]]:
    """The plots of a report; if drawing fails, none and a notice, since the trained model must not be lost."""
    try:
        return illustrate(report())
    except Exception as error:  # noqa: BLE001  a drawing library may raise anything
        yield events.Notice(f"no pictures were drawn: {error or type(error).__name__}")
        return {}


def _publish(
    registry: Registry,
    run: TrainingRun,
    classes: tuple[str, ...],
    record: SplitRecord,
    used: dict[str, Any],
    metrics: Mapping[str, float | None],
    pictures: Mapping[str, bytes],
) -> Manifest:
    """Publish the model with the figures of each epoch and the pictures; `used` are the settings of its training."""
    description = Description(
        model=run.settings.model,
        arguments=run.arguments,
        normalisation=run.normalisation,
        classes=classes,
        split=record,
        settings=used,
        metrics=dict(metrics),
        parent=None,
        origin="train",
    )
    lines = "".join(f"{json.dumps(asdict(done))}\n" for done in run.progress.epochs)
    return publish(registry, run.model, description, {"metrics.jsonl": lines.encode(), **pictures})


def _result(run: TrainingRun, manifest: Manifest, promoted: bool, reason: str) -> events.TrainResult:
    progress, metrics = run.progress, manifest.metrics
    test_accuracy = metrics["test_accuracy"]
    assert test_accuracy is not None
    return events.TrainResult(
        version=manifest.version,
        model=manifest.model,
        epochs=len(progress.epochs),
        train_images=len(run.index),
        validation_accuracy=metrics["validation_accuracy"],
        test_accuracy=test_accuracy,
        validation_accuracy_tta=metrics.get("validation_accuracy_tta"),
        test_accuracy_tta=metrics.get("test_accuracy_tta"),
        target_reached=run.reached() if run.settings.target_accuracy is not None else None,
        seconds=progress.seconds,
        images_per_second=len(progress.epochs) * run.batches * run.batch_size / progress.seconds,
        promoted=promoted,
        reason=reason,
    )


def _report(
    epochs: Sequence[events.EpochDone], dataset: Dataset, answers: torch.Tensor, test: Metrics
) -> events.TrainReport:
    """A report to draw pictures of; `answers` (N, classes) are the probabilities of the test images."""
    images = dataset.test
    confidence, predicted = answers.max(dim=1)
    wrong = (predicted != images.labels).nonzero().flatten()
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)[:MISTAKES]]
    return events.TrainReport(
        epochs=epochs,
        classes=dataset.classes,
        test_accuracy=test.accuracy,
        confusion=test.confusion.tolist(),
        mistakes=[
            events.Mistake(
                images.pixels[index].numpy(), int(images.labels[index]), int(predicted[index]), float(confidence[index])
            )
            for index in surest.tolist()
        ],
    )


def _checkpoint_path(registry: Registry, used: dict[str, Any], split: dict[str, Any]) -> Path:
    """The checkpoint file of a run with these settings and arguments over these images."""
    name = hashlib.sha256(json.dumps([used, split], sort_keys=True).encode()).hexdigest()[:12]
    return registry.dir / TRAINING / f"{used['model'].replace(':', '-')}-{name}.safetensors"


def _promote(
    registry: Registry, new: Manifest, validation: Images | None, wanted: bool | None, precision: Precision
) -> tuple[bool, str]:
    """Promote `new` to production where it is better, or as `wanted`; whether it was promoted, and why."""
    if wanted is not None:
        reason = "by --promote" if wanted else "by --no-promote"
        if wanted:
            registry.promote(new.version, who="train", why=reason)
        return wanted, reason
    while True:
        current = registry.alias("production")
        better, reason = _better(registry, new, None if current is None else current.version, validation, precision)
        if not better:
            return False, reason
        try:
            generation = current.generation if current else 0
            registry.promote(new.version, who="train", why=reason, expected_generation=generation)
        except AliasConflict:  # another writer was faster: compare with its version
            continue
        return True, reason


def _better(
    registry: Registry, new: Manifest, current: int | None, validation: Images | None, precision: Precision
) -> tuple[bool, str]:
    """Whether `new` beats version `current` on the validation images, at the precision at which `new` was evaluated."""
    if current is None:
        return True, "there was no production version"
    if validation is None:
        return False, "trained on the validation images too, so it cannot be compared; --promote forces it"
    try:
        old = load(registry, current)
    except UntrustedCode as error:
        return False, f"production version {current} cannot be compared with: {error}; --promote forces it"
    except RegistryError as error:
        return True, f"production version {current} cannot be loaded: {error}"
    if old.manifest.classes != new.classes:
        return False, f"production version {current} has other classes; --promote forces it"
    before = evaluate(old.predictor(precision=precision), validation).accuracy
    after = new.metrics.get("validation_accuracy_tta") or new.metrics["validation_accuracy"] or 0.0  # as it answers
    return (
        after > before,
        f"validation accuracy {after:.4f} against {before:.4f} of production version {current}",
    )
