"""Offline training: from labelled images to a version in the registry."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cifarctl import events
from cifarctl.data import Dataset, Images, split
from cifarctl.errors import AliasConflict, RegistryError, SettingsError, UntrustedCode
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import Precision, choose_device
from cifarctl.models.threads import use as use_threads
from cifarctl.registry import Manifest, Registry, checkpoint
from cifarctl.registry import validation as validation_images
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish, split_record
from cifarctl.settings import Launch, Settings
from cifarctl.training.distribution import team
from cifarctl.training.metrics import Metrics, evaluate, measure
from cifarctl.training.run import Run

MISTAKES = 25  # that a report shows


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
    """Train a model as `settings.train` says, publish it in `settings.registry`, and promote it where it is better.

    `promote` True or False: in any case, or in none. The training images are split as `settings.data` says.
    `full` trains on every training image, validation and stream included. When `stop` is set the run leaves
    its checkpoint and ends without a result; `resume` continues it, bit for bit on the same machine. The version is
    published with the figures of each epoch, a line of JSON each, and with the pictures that `illustrate` draws.

    With a target accuracy it ends with the epoch after which it is seen on the validation images, at the latest after
    all epochs; on the way the learning rate falls to nothing more than once.

    Where torchrun has launched several processes each trains on its part of every batch; the first one tells, judges
    and writes, and what torchrun starts again continues from the checkpoint.

    Raises:
        SettingsError: a target with `full`, which leaves no images to see it on.
        TrainingDiverged: the loss is not finite; the last good checkpoint stays.
        RegistryError: nothing to resume, or the registry cannot be written.
        TeammateLost: another process of the run has ended.

    Example:
        >>> from cifarctl import Settings, data, train
        >>> from cifarctl.settings import DataSettings, RegistrySettings, TrainSettings
        >>> settings = Settings(
        ...     data=DataSettings(source="synthetic", synthetic_images=500),
        ...     train=TrainSettings(epochs=1, batch_size=32, seed=1, threads=1),
        ...     registry=RegistrySettings(dir="models"),
        ... )
        >>> *_, result = train(data.load(settings.data), settings)  # the others tell of the progress
        >>> result.version, result.promoted, result.reason
        (1, True, 'there was no production version')
    """
    options = settings.train
    if full and options.target_accuracy is not None:
        raise SettingsError("train.target_accuracy: with --full no images are left to see by that it is reached")
    use_threads(options.threads)
    registry = Registry(settings.registry.trusting(options.model))  # the user has named the architecture
    parts = split(dataset.train.labels, settings.data.split, settings.data.split_seed)
    index = torch.arange(len(dataset.train)) if full else parts.train
    held_out = dataset.train.take(parts.validation)
    validation = None if full else held_out
    record = split_record(dataset, parts, settings.data, ("train", "validation", "stream") if full else ("train",))
    with team(launch, choose_device(options.device, "train.device")) as members:
        run = Run.start(options, dataset.train, index, len(dataset.classes), members)
        chosen = options.model_dump(mode="json") | asdict(run.recipe)
        del chosen["arguments"]  # the manifest has them, with the others
        path = _checkpoint_path(registry, chosen | run.arguments, record.model_dump(mode="json"))
        if resume or members.told(lambda: launch is not None and run.continues(path, launch)):
            run.restore(path)
        elif members.first:
            run.save(path)  # from now on there is something to resume
        for event in run.train(dataset.name, validation, path, stop):
            if members.first:
                yield event
    if run.interrupted or not members.first:
        return

    last = run.epochs[-1]
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
    try:
        pictures = illustrate(_report(run.epochs, dataset, answers, served))
    except Exception as error:  # noqa: BLE001  whatever it is, it is no reason to lose a trained model
        pictures = {}
        yield events.Notice(f"nothing was drawn: {error or type(error).__name__}")
    lines = "".join(f"{json.dumps(asdict(done))}\n" for done in run.epochs)
    manifest = publish(
        registry,
        run.model,
        name=options.model,
        arguments=run.arguments,
        normalisation=run.normalisation,
        classes=dataset.classes,
        split=record,
        settings=chosen,
        metrics=metrics,
        parent=None,
        origin="train",
        files={"metrics.jsonl": lines.encode(), **pictures},
    )
    validation_images.save(registry, parts.sha256, held_out.pixels, held_out.labels)  # before anybody serves it
    promoted, reason = _promote(registry, manifest, validation, promote, run.precision)
    checkpoint.discard(path)
    for code in own_code(options.model, run.arguments):
        yield events.Notice(f"whoever loads this version must trust its code: registry.trusted_models = {code}")
    yield events.TrainResult(
        version=manifest.version,
        model=options.model,
        epochs=len(run.epochs),
        train_images=len(index),
        validation_accuracy=metrics["validation_accuracy"],
        test_accuracy=test.accuracy,
        validation_accuracy_tta=metrics.get("validation_accuracy_tta"),
        test_accuracy_tta=metrics.get("test_accuracy_tta"),
        target_reached=run.reached() if options.target_accuracy is not None else None,
        seconds=run.seconds,
        images_per_second=len(run.epochs) * run.batches * run.batch_size / run.seconds,
        promoted=promoted,
        reason=reason,
    )


def _report(
    epochs: Sequence[events.EpochDone], dataset: Dataset, answers: torch.Tensor, test: Metrics
) -> events.TrainReport:
    """What there is to draw; `answers` (N, classes) are the probabilities of the test images."""
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


def _checkpoint_path(registry: Registry, chosen: dict[str, Any], split: dict[str, Any]) -> Path:
    """Where a run with all that is `chosen` for it, over these images, keeps its checkpoint."""
    name = hashlib.sha256(json.dumps([chosen, split], sort_keys=True).encode()).hexdigest()[:12]
    return registry.dir / "training" / f"{chosen['model'].replace(':', '-')}-{name}.safetensors"


def _promote(
    registry: Registry, new: Manifest, validation: Images | None, wanted: bool | None, precision: Precision
) -> tuple[bool, str]:
    """Move `production` to `new` where that is right; whether it was moved, and why."""
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
        except AliasConflict:  # somebody was faster, so there is another version to be compared with
            continue
        return True, reason


def _better(
    registry: Registry, new: Manifest, current: int | None, validation: Images | None, precision: Precision
) -> tuple[bool, str]:
    """Whether `new` beats version `current` on the validation images, both in the arithmetic that judged `new`."""
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
