"""Offline training: from labelled images to a version in the registry."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cifarctl import events, models
from cifarctl.data import Dataset, Images, Split, augment
from cifarctl.errors import AliasConflict, RegistryError, TrainingDiverged, UntrustedCode
from cifarctl.flows.evaluate import Metrics, evaluate, measure
from cifarctl.flows.publish import publish, split_record
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import Precision, Predictor, autocast, choose_device, choose_precision
from cifarctl.models.preprocess import normalise
from cifarctl.registry import Manifest, Normalisation, Registry, checkpoint
from cifarctl.registry import validation as validation_images
from cifarctl.registry.loading import load
from cifarctl.settings import DataSettings, TrainSettings

PROGRESS_INTERVAL = 0.1  # seconds between two TrainProgress events
MISTAKES = 25  # that a report shows
WARM_UP = 0.25  # share of the steps in which the learning rate rises


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The learning rate of `step` of `steps`: a cosine rise to `peak`, then a cosine fall to nearly zero.

    Smith and Topin 2018, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates.
    """
    rise = max(1.0, WARM_UP * steps)
    low, part = (peak / 25, step / rise) if step < rise else (peak / 1e4, (steps - step) / max(1.0, steps - rise))
    return low + (peak - low) * (1 - math.cos(math.pi * min(part, 1.0))) / 2


def train(
    dataset: Dataset,
    split: Split,
    registry: Registry,
    settings: TrainSettings,
    data_settings: DataSettings,
    *,
    full: bool = False,
    resume: bool = False,
    promote: bool | None = None,
    stop: threading.Event | None = None,
    illustrate: Callable[[events.TrainReport], Mapping[str, bytes]] = lambda _: {},
) -> Iterator[events.TrainEvent]:
    """Train a model, publish it, and promote it where it is better (`promote` None) or as told.

    `full` trains on every training image, validation and stream included. When `stop` is set the run leaves
    its checkpoint and ends without a result; `resume` continues it, bit for bit on the same machine. The version is
    published with the figures of each epoch, a line of JSON each, and with the pictures that `illustrate` draws.

    Raises:
        TrainingDiverged: the loss is not finite; the last good checkpoint stays.
        RegistryError: nothing to resume, or the registry cannot be written.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device, "train.device")
    images = dataset.train if full else dataset.train.take(split.train)
    validation = None if full else dataset.train.take(split.validation)
    record = split_record(dataset, split, data_settings, ("train", "validation", "stream") if full else ("train",))
    path = _checkpoint_path(registry, settings, record.model_dump(mode="json"))

    run = _Run.start(settings, images, len(dataset.classes), device)
    if resume:
        run.restore(path)
    else:
        run.save(path)  # from now on there is something to resume
    first_epoch = run.step // run.batches + 1
    yield events.TrainStarted(
        model=settings.model,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        images=len(images),
        epochs=settings.epochs,
        first_epoch=first_epoch,
        first_batch=run.step % run.batches + 1,
        batches=run.batches,
        precision=run.precision,
        device=str(device),
        data=dataset.name,
    )

    for epoch in range(first_epoch, settings.epochs + 1):
        began = time.perf_counter()
        yield from run.epoch(epoch, stop)
        seconds = time.perf_counter() - began
        run.seconds += seconds
        run.epoch_seconds += seconds
        run.require_finite(epoch)
        if whole := run.step == epoch * run.batches:
            run.epochs.append(
                events.EpochDone(
                    epoch=epoch,
                    loss=run.mean_loss,
                    validation_accuracy=evaluate(run.predictor(), validation).accuracy if validation else None,
                    seconds=run.epoch_seconds,
                    images_per_second=run.batches * run.batch_size / run.epoch_seconds,
                )
            )
            run.epoch_seconds = 0.0
        run.save(path)
        if whole:
            yield run.epochs[-1]
        if stop is not None and stop.is_set():
            yield events.Notice(f"interrupted in epoch {epoch}; continue with the same command and --resume")
            return

    predictor = run.predictor()
    accuracy = evaluate(predictor, validation).accuracy if validation else None
    answers = predictor(dataset.test.pixels)
    test = measure(answers, dataset.test.labels)
    try:
        pictures = illustrate(_report(run.epochs, dataset, answers, test))
    except Exception as error:  # noqa: BLE001  whatever it is, it is no reason to lose a trained model
        pictures = {}
        yield events.Notice(f"nothing was drawn: {error or type(error).__name__}")
    lines = "".join(f"{json.dumps(asdict(done))}\n" for done in run.epochs)
    manifest = publish(
        registry,
        run.model,
        name=settings.model,
        arguments=run.arguments,
        normalisation=run.normalisation,
        classes=dataset.classes,
        split=record,
        settings=settings.model_dump(mode="json"),
        metrics={"validation_accuracy": accuracy, "test_accuracy": test.accuracy, "test_loss": test.loss},
        parent=None,
        origin="train",
        files={"metrics.jsonl": lines.encode(), **pictures},
    )
    held_out = dataset.train.take(split.validation)
    validation_images.save(registry, split.sha256, held_out.pixels, held_out.labels)  # before anybody serves it
    checkpoint.discard(path)
    promoted, reason = _promote(registry, manifest, validation, promote, run.precision)
    for code in own_code(settings.model, run.arguments):
        yield events.Notice(f"whoever loads this version must trust its code: registry.trusted_models = {code}")
    yield events.TrainResult(
        version=manifest.version,
        model=settings.model,
        epochs=settings.epochs,
        train_images=len(images),
        validation_accuracy=accuracy,
        test_accuracy=test.accuracy,
        seconds=run.seconds,
        images_per_second=settings.epochs * run.batches * run.batch_size / run.seconds,
        promoted=promoted,
        reason=reason,
    )


@dataclass
class _Run:
    """All that changes while training, and so all that a checkpoint holds."""

    settings: TrainSettings
    images: Images
    device: torch.device
    model: nn.Module
    arguments: dict[str, Any]
    normalisation: Normalisation
    optimiser: torch.optim.Optimizer
    precision: Precision
    generator: torch.Generator
    global_state: torch.Tensor  # of torch's own generator, which layers such as dropout draw from
    batch_size: int
    batches: int
    epochs: list[events.EpochDone] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0  # of these, those of the present epoch
    loss_sum: float = 0.0
    loss_count: int = 0

    @classmethod
    def start(cls, settings: TrainSettings, images: Images, classes: int, device: torch.device) -> _Run:
        arguments = {"classes": classes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = models.build(settings.model, arguments)
            global_state = torch.get_rng_state()
        model = model.to(device).to(memory_format=torch.channels_last)
        batch_size = min(settings.batch_size, len(images))
        return cls(
            settings=settings,
            images=images,
            device=device,
            model=model,
            arguments=arguments,
            normalisation=_normalisation(images),
            optimiser=torch.optim.AdamW(
                model.parameters(), weight_decay=settings.weight_decay, fused=device.type in {"cpu", "cuda"}
            ),
            precision=choose_precision(settings.precision, model, device, batch_size, train=True),
            generator=torch.Generator().manual_seed(settings.seed),
            global_state=global_state,
            batch_size=batch_size,
            batches=len(images) // batch_size,
        )

    def epoch(self, epoch: int, stop: threading.Event | None) -> Iterator[events.TrainProgress]:
        """The rest of `epoch` from the present step on; ends early when `stop` is set."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.global_state)
            yield from self._batches(epoch, stop)
            self.global_state = torch.get_rng_state()

    def _batches(self, epoch: int, stop: threading.Event | None) -> Iterator[events.TrainProgress]:
        settings, steps = self.settings, self.settings.epochs * self.batches
        order_seed = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=order_seed)
        first = self.step % self.batches
        if first == 0:
            self.loss_sum, self.loss_count = 0.0, 0
        self.model.train()
        began = shown = time.perf_counter()
        for batch in range(first, self.batches):
            if stop is not None and stop.is_set():
                return
            index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            pixels = augment(
                self.images.pixels[index],
                self.generator,
                crop_padding=settings.crop_padding,
                flip=settings.flip,
            )
            labels = self.images.labels[index].to(self.device)
            inputs = normalise(pixels.to(self.device), self.normalisation.mean, self.normalisation.std)
            rate = one_cycle(self.step, steps, settings.learning_rate)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            with autocast(self.device, self.precision):
                logits = self.model(inputs)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
            value = loss.item()
            if not math.isfinite(value):
                raise self.diverged(
                    f"the loss is {value} at step {self.step + 1} (epoch {epoch}, batch {batch + 1})", epoch
                )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.step += 1
            self.loss_sum += value
            self.loss_count += 1
            now = time.perf_counter()
            if now - shown >= PROGRESS_INTERVAL or batch + 1 == self.batches:
                shown = now
                speed = (batch + 1 - first) / (now - began)
                yield events.TrainProgress(
                    epoch=epoch,
                    batch=batch + 1,
                    loss=self.mean_loss,
                    learning_rate=rate,
                    images_per_second=speed * self.batch_size,
                    seconds_left=(steps - self.step) / speed,
                )

    def require_finite(self, epoch: int) -> None:
        """Refuse to save weights that the last step before has spoilt.

        Raises:
            TrainingDiverged: a weight is not finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self.diverged(f"the weights are not finite after step {self.step} (epoch {epoch})", epoch)

    def diverged(self, what: str, epoch: int) -> TrainingDiverged:
        """The error that says what has happened, what is kept and what to do."""
        kept = "the checkpoint of the last whole epoch is kept" if epoch > 1 else "nothing was learned before"
        return TrainingDiverged(f"{what}; {kept}; lower train.learning_rate (now {self.settings.learning_rate:g})")

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(1, self.loss_count)

    def predictor(self) -> Predictor:
        return Predictor(
            self.model,
            self.normalisation.mean,
            self.normalisation.std,
            device=self.device,
            precision=self.precision,
        )

    def save(self, path: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in values.items()}
        tensors |= {"generator": self.generator.get_state(), "global_generator": self.global_state}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "precision": self.precision,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "epochs": [asdict(done) for done in self.epochs],
        }
        checkpoint.save(path, tensors, state)

    def restore(self, path: Path) -> None:
        found = checkpoint.load(path)
        if found is None:
            raise RegistryError(
                f"nothing to resume: no checkpoint of a run with these settings in {path.parent}; "
                "repeat the options of the interrupted run, or leave out --resume"
            )
        tensors, state = found
        self.model.load_state_dict(
            {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        )
        parameters = list(self.model.parameters())
        inner: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".", 2)
                like = parameters[int(number)]
                # The fused optimiser walks through memory: moments must lie in it as their parameter does.
                laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                inner.setdefault(int(number), {})[key] = laid
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": inner})
        self.generator.set_state(tensors["generator"])
        self.global_state = tensors["global_generator"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.epoch_seconds = state.get("epoch_seconds", 0.0)
        self.precision = state["precision"]
        self.epochs = [events.EpochDone(**done) for done in state.get("epochs", [])]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]


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


def _normalisation(images: Images) -> Normalisation:
    """Mean and deviation of each channel, on the 0-1 scale, over all pixels of `images`."""
    # A histogram of the 256 levels is exact and needs no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(3):
        share = torch.bincount(images.pixels[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        centre = (share * levels).sum()
        mean.append(centre.item())
        std.append(max((share * (levels - centre) ** 2).sum().sqrt().item(), 1e-3))
    return Normalisation(mean=tuple(mean), std=tuple(std))


def _checkpoint_path(registry: Registry, settings: TrainSettings, split: dict[str, Any]) -> Path:
    """Where the run of these settings over these images keeps its checkpoint."""
    text = json.dumps([settings.model_dump(mode="json"), split], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return registry.dir / "training" / f"{settings.model.replace(':', '-')}-{name}.safetensors"


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
    after = new.metrics["validation_accuracy"] or 0.0
    return (
        after > before,
        f"validation accuracy {after:.4f} against {before:.4f} of production version {current}",
    )
