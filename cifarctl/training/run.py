"""A run of offline training: step after step, and all that a checkpoint must hold to go on with it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cifarctl import events, models
from cifarctl.data import Images, augment
from cifarctl.errors import RegistryError, SettingsError, TrainingDiverged
from cifarctl.models.architectures.airbench import Airbench
from cifarctl.models.averaged import Averaged
from cifarctl.models.backends import Unusable
from cifarctl.models.compiling import Wanted, compiled
from cifarctl.models.optimiser import Optimiser
from cifarctl.models.predictor import PRECISIONS, Precision, Predictor, autocast, choose_precision
from cifarctl.models.preprocess import normalise
from cifarctl.models.recipe import Recipe
from cifarctl.registry import Normalisation, checkpoint
from cifarctl.settings import Launch, TrainSettings
from cifarctl.training.distribution import Team, losses
from cifarctl.training.metrics import evaluate

PROGRESS_INTERVAL = 0.1  # seconds between two TrainProgress events
WHITENED_BY = 5000  # training images, where the first layer follows from them
BLOCK = 10_000  # images that are copied or counted at once
MOST_THERE = 1_000_000  # images that an accelerator holds, 3 GB


def cycle(epoch: int, epochs: int, first: int | None) -> tuple[int, int]:
    """In which epochs the learning rate falls to nothing once: the first and the last of those that `epoch` is among.

    Epochs count from 1. `first`: how many the first cycle has; each later one is twice as long as the one before
    (Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts), and the last one as long as what
    is left, as no cycle is shorter than the first. None: there is but one.
    """
    shortest = first or epochs
    begin, length = 1, shortest
    while True:
        end = begin + length - 1
        if epochs - end < shortest:
            end = epochs
        if epoch <= end:
            return begin, end
        begin, length = end + 1, 2 * length


@dataclass
class Run:
    """All that changes while training, and so all that a checkpoint holds."""

    settings: TrainSettings
    recipe: Recipe
    images: Images
    index: torch.Tensor  # (N,) which of them are trained on; they are never copied as a whole
    team: Team
    model: nn.Module
    arguments: dict[str, Any]
    normalisation: Normalisation
    optimiser: Optimiser
    precision: Precision
    mirrored: torch.Tensor  # (N,) bool: which images are mirrored in every odd epoch, the others in every even one
    batch_size: int  # of the whole team
    batches: int
    epochs: list[events.EpochDone] = field(default_factory=list)
    compiled: bool | None = None  # None: not decided yet
    interrupted: bool = False
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0  # of these, those of the present epoch
    loss_sum: float = 0.0
    loss_count: int = 0

    @classmethod
    def start(cls, settings: TrainSettings, images: Images, index: torch.Tensor, classes: int, team: Team) -> Run:
        """A run that has yet to begin, in what the settings say or else the model's recipe."""
        recipe = _recipe(settings)
        arguments: dict[str, Any] = {"classes": classes, **recipe.arguments}
        if recipe.tta != "none":
            arguments["tta"] = recipe.tta
        normalisation = _normalisation(images, index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = models.build(settings.model, arguments)
        for part in model.modules():
            if isinstance(part, Airbench):
                some = images.pixels[index[:: -(-len(index) // WHITENED_BY)]]
                part.whiten_by(normalise(some, normalisation.mean, normalisation.std))
        model = model.to(team.device).to(memory_format=torch.channels_last)
        network = model.network if isinstance(model, Averaged) else model
        if team.accelerated and len(index) <= MOST_THERE:  # else each batch is brought there anew
            images = _brought(images, index, team.device)
            index = torch.arange(len(index))
        batch_size = min(recipe.batch_size, len(index))
        if batch_size < team.size:
            raise SettingsError(
                f"train.batch_size = {batch_size}: less than one image for each of {team.size} processes"
            )
        seeded = torch.Generator().manual_seed(settings.seed)
        return cls(
            settings=settings,
            recipe=recipe,
            images=images,
            index=index,
            team=team,
            model=model,
            arguments=arguments,
            normalisation=normalisation,
            optimiser=Optimiser(model, recipe, batch_size),
            precision=_precision(settings, network, batch_size // team.size, team),
            mirrored=torch.rand(len(index), generator=seeded) < 0.5,
            batch_size=batch_size,
            batches=len(index) // batch_size,
        )

    def train(
        self, data: str, validation: Images | None, path: Path, stop: threading.Event | None
    ) -> Iterator[events.TrainEvent]:
        """What is left of the run, its checkpoint kept at `path`; ends early, `interrupted`, when `stop` is set.

        `data` is the name of the data set.

        Raises:
            TrainingDiverged: a loss, or a weight after an epoch, is not finite.
            TeammateLost: another process of the run has ended.
        """
        team, first_epoch = self.team, self.step // self.batches + 1
        yield events.TrainStarted(
            model=self.settings.model,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            images=len(self.index),
            epochs=self.settings.epochs,
            first_epoch=first_epoch,
            first_batch=self.step % self.batches + 1,
            batches=self.batches,
            precision=self.precision,
            device=str(team.device),
            data=data,
        )
        if self.reached() or not self.steps_left:  # only publishing was left to do
            return
        began = time.perf_counter()
        shared, notice = self._shared()
        self.seconds += time.perf_counter() - began
        if team.first:
            self.save(path)  # with what has been decided, so that a run that is resumed does not measure anew
        if notice is not None:
            yield notice
        for epoch in range(first_epoch, self.settings.epochs + 1):
            if self.reached():
                return
            began = time.perf_counter()
            with torch.random.fork_rng(devices=[]):
                yield from self._batches(shared, epoch, stop)
            self._require_finite(epoch)
            seconds = time.perf_counter() - began
            self.seconds += seconds
            self.epoch_seconds += seconds
            if whole := self.step == epoch * self.batches:
                self.epochs.append(self._done(epoch, validation))
                self.epoch_seconds = 0.0
            if team.first:
                self.save(path)
            if whole:
                yield self.epochs[-1]
            self.interrupted = not whole or _is_set(stop, team)
            if self.interrupted:
                yield events.Notice(f"interrupted in epoch {epoch}; continue with the same command and --resume")
                return

    def _shared(self) -> tuple[nn.Module, events.Notice | None]:
        """What is trained: the model, compiled where that pays, its gradients those of the whole team."""
        settings, team = self.settings, self.team
        network: nn.Module | None = None
        failure = ""
        compiling = partial(
            compiled,
            model=self.model,
            device=team.device,
            precision=self.precision,
            batch=len(team.mine(torch.arange(self.batch_size))),
            steps=self._steps_hoped_for(),
        )
        wanted: Wanted = settings.compile if self.compiled is None else "on" if self.compiled else "off"
        try:
            network = compiling(wanted) if team.first else None
        except Unusable as error:
            failure = str(error)
        self.compiled = team.told(lambda: network is not None) > 0
        if self.compiled and not team.first:
            with suppress(Unusable):
                network = compiling("on")
        if self.compiled and team.mean(network is not None) < 1:  # then nobody does: they would wait for who cannot
            self.compiled, network, failure = False, None, "torch.compile fails in another process of this run"
        notice = "a step of training is compiled (torch.compile)" if self.compiled else ""
        notice = f"{failure}; trained without it" if failure else notice
        shared = team.share(self.model if network is None else network, partly_used=":" in settings.model)
        return shared, events.Notice(notice) if notice else None

    def _done(self, epoch: int, validation: Images | None) -> events.EpochDone:
        accuracy = answered = None
        if validation is not None:
            accuracy = self._accuracy(validation, averaged=False)
            target = self.settings.target_accuracy
            may_be_last = epoch == self._cycle(epoch)[1] or (target is not None and accuracy >= target)
            if self.averaged and may_be_last:
                answered = self._accuracy(validation, averaged=True)
        return events.EpochDone(
            epoch=epoch,
            loss=self.mean_loss,
            validation_accuracy=accuracy,
            seconds=self.epoch_seconds,
            images_per_second=self.batches * self.batch_size / self.epoch_seconds,
            validation_accuracy_tta=answered,
        )

    def _accuracy(self, images: Images, *, averaged: bool) -> float:
        predictor = self.predictor(averaged=averaged)
        return self.team.told(lambda: evaluate(predictor, images).accuracy)

    def _batches(self, shared: nn.Module, epoch: int, stop: threading.Event | None) -> Iterator[events.TrainProgress]:
        settings = self.settings
        begin, end = self._cycle(epoch)
        before, steps = (begin - 1) * self.batches, (end - begin + 1) * self.batches
        order_seed = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.index), generator=order_seed)
        first = self.step % self.batches
        if first == 0:
            self.loss_sum, self.loss_count = 0.0, 0
        self.model.train()
        side = self._side(epoch)
        team = self.team
        began = shown = time.perf_counter()
        for batch in range(first, self.batches):
            if _is_set(stop, team):
                return
            places = team.mine(order[batch * self.batch_size : (batch + 1) * self.batch_size])
            images = self.images.take(self.index[places])
            pixels = augment(
                images.pixels,
                self._seeded(),
                crop_padding=settings.crop_padding,
                flip=self.mirrored[places] ^ (epoch % 2 == 0) if settings.flip else False,
            )
            labels = images.labels.to(team.device)
            inputs = normalise(pixels.to(team.device), self.normalisation.mean, self.normalisation.std)
            if side < inputs.shape[-1]:
                inputs = functional.interpolate(inputs, size=(side, side), mode="bilinear", antialias=True)
            with autocast(team.device, self.precision), losses():
                logits = shared(inputs)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
            loss = loss * (len(labels) * team.size / self.batch_size)  # so that the team's mean is that of all images
            value = team.mean(loss.item())
            if not math.isfinite(value):
                raise self._diverged(
                    f"the loss is {value} at step {self.step + 1} (epoch {epoch}, batch {batch + 1})", epoch
                )
            self.model.zero_grad()
            with losses():
                loss.backward()  # type: ignore[no-untyped-call]
            rate = self.optimiser.step(self.step - before, steps)
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
                    seconds_left=self.steps_left / speed,
                )

    def _seeded(self) -> torch.Generator:
        """What the present step draws by: of its own, so that it does not matter where a run was interrupted.

        Torch's own generator, from which layers such as dropout draw, is set by it as well.
        """
        seed = ((self.settings.seed * 1_000_003 + self.step) * 4099 + self.team.rank) % 2**62
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def _require_finite(self, epoch: int) -> None:
        """Refuse to save weights that the last step before has spoilt."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._diverged(f"the weights are not finite after step {self.step} (epoch {epoch})", epoch)

    def _diverged(self, what: str, epoch: int) -> TrainingDiverged:
        kept = "the checkpoint of the last whole epoch is kept" if epoch > 1 else "nothing was learned before"
        return TrainingDiverged(f"{what}; {kept}; lower train.learning_rate (now {self.recipe.learning_rate:g})")

    def _cycle(self, epoch: int) -> tuple[int, int]:
        """The first and last epoch of the cycle that `epoch` is in; without a target the whole run is one."""
        targeted = self.settings.target_accuracy is not None
        return cycle(epoch, self.settings.epochs, self.recipe.cycle if targeted else None)

    def _steps_hoped_for(self) -> dict[int, int]:
        """Steps of the first cycle on images of each side (pixels): a run with a target is hoped to end with it."""
        _, end = self._cycle(1)
        sides = [self._side(epoch) for epoch in range(1, end + 1)]
        return {side: sides.count(side) * self.batches for side in sides}

    def _side(self, epoch: int) -> int:
        """The side (pixels) of the images of an epoch.

        On the way to a target they are smaller in the first half of each cycle (progressive resizing: Tan and Le 2021,
        EfficientNetV2), where the model's recipe says so.
        """
        whole: int = self.images.pixels.shape[-1]
        begin, end = self._cycle(epoch)
        early = self.settings.target_accuracy is not None and 2 * (epoch - begin + 1) <= end - begin + 1
        return min(self.recipe.early_side or whole, whole) if early else whole

    @property
    def steps_left(self) -> int:
        """Of the whole run."""
        return self.settings.epochs * self.batches - self.step

    @property
    def mean_loss(self) -> float:
        """Of the present epoch so far."""
        return self.loss_sum / max(1, self.loss_count)

    @property
    def averaged(self) -> bool:
        """Whether the model answers by the mean over variants of an image."""
        return self.recipe.tta != "none"

    def reached(self) -> bool:
        """Whether the target accuracy, where there is one, has been seen: of the answers that the version will give."""
        target = self.settings.target_accuracy
        seen = [done.validation_accuracy_tta if self.averaged else done.validation_accuracy for done in self.epochs]
        return target is not None and any(accuracy is not None and accuracy >= target for accuracy in seen)

    def predictor(self, *, averaged: bool = True) -> Predictor:
        """The network as it is, averaged over variants of an image if that belongs to it; else alone."""
        network = self.model
        if isinstance(network, Averaged) and not averaged:
            network = network.network
        return Predictor(
            network,
            self.normalisation.mean,
            self.normalisation.std,
            device=self.team.device,
            precision=self.precision,
        )

    def save(self, path: Path) -> None:
        """Leave a checkpoint, in place of the one before."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.dump().items()}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "precision": self.precision,
            "compiled": self.compiled,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "epochs": [asdict(done) for done in self.epochs],
            "launch": self.team.run,
        }
        checkpoint.save(path, tensors, state)

    def continues(self, path: Path, launch: Launch) -> bool:
        """Whether the checkpoint at `path` is of this very launch, which torchrun has interrupted."""
        found = checkpoint.load(path)
        if found is None:
            return False
        return found[1].get("launch") == launch.run if launch.run != "none" else launch.restarts > 0

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            RegistryError: there is none, or it cannot be read.
        """
        found = checkpoint.load(path)
        if found is None:
            raise RegistryError(
                f"nothing to resume: no checkpoint of a run with these settings in {path.parent}; "
                "repeat the options of the interrupted run, or leave out --resume"
            )
        tensors, state = found
        self.model.load_state_dict(_within("model.", tensors))
        self.optimiser.load(_within("optimiser.", tensors))
        self.step, self.seconds = state["step"], state["seconds"]
        self.epoch_seconds = state["epoch_seconds"]
        self.precision, self.compiled = state["precision"], state["compiled"]
        self.epochs = [events.EpochDone(**done) for done in state["epochs"]]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]


def _recipe(settings: TrainSettings) -> Recipe:
    """The model's, but for what is set."""
    recipe = models.recipe_of(settings.model)
    names = [field.name for field in fields(recipe) if hasattr(settings, field.name)]
    return replace(recipe, **{name: value for name in names if (value := getattr(settings, name)) is not None})


def _brought(images: Images, index: torch.Tensor, device: torch.device) -> Images:
    """The images at `index`, on `device`; here there is never more than a block of them."""
    pixels = torch.cat([images.pixels[part].to(device) for part in torch.split(index, BLOCK)])
    return Images(pixels, images.labels[index].to(device))


def _precision(settings: TrainSettings, model: nn.Module, batch_size: int, team: Team) -> Precision:
    """The same for all, though each might measure otherwise."""
    chosen = team.told(
        lambda: PRECISIONS.index(choose_precision(settings.precision, model, team.device, batch_size, train=True))
    )
    return PRECISIONS[int(chosen)]


def _is_set(stop: threading.Event | None, team: Team) -> bool:
    """Whether anybody has been told to stop."""
    return team.mean(stop is not None and stop.is_set()) > 0


def _within(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _normalisation(images: Images, index: torch.Tensor) -> Normalisation:
    """Mean and deviation of each channel, on the 0-1 scale, over all pixels of the images at `index`."""
    # A histogram of the 256 levels is exact and needs no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros((3, 256), dtype=torch.int64)
    for part in torch.split(index, BLOCK):
        pixels = images.pixels[part]
        for channel in range(3):
            counts[channel] += torch.bincount(pixels[:, channel].flatten(), minlength=256)
    mean, std = [], []
    for count in counts:
        share = count.double() / count.sum()
        centre = (share * levels).sum()
        mean.append(centre.item())
        std.append(max((share * (levels - centre) ** 2).sum().sqrt().item(), 1e-3))
    return Normalisation(mean=tuple(mean), std=tuple(std))
