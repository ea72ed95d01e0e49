"""A run of offline training: epoch after epoch, step after step, resumed from a checkpoint bit for bit.

`preparation` sets up a run, `schedule` plans its epochs, `progress` is the state that outlives the process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cifarctl import events
from cifarctl.data import Images, augment
from cifarctl.errors import RegistryError, TrainingDiverged
from cifarctl.models.averaged import Averaged
from cifarctl.models.backends import Unusable
from cifarctl.models.compiling import Wanted, compiled
from cifarctl.models.optimiser import Optimiser
from cifarctl.models.predictor import Predictor, autocast
from cifarctl.models.preprocess import normalise
from cifarctl.models.recipe import Recipe
from cifarctl.registry import Normalisation, checkpoint
from cifarctl.settings import Launch, TrainSettings
from cifarctl.training.distribution import Team, losses
from cifarctl.training.metrics import evaluate
from cifarctl.training.progress import Progress
from cifarctl.training.schedule import Schedule

PROGRESS_INTERVAL = 0.1  # seconds between two TrainProgress events


@dataclass
class TrainingRun:
    """A run of offline training, which yields its events; a checkpoint holds `progress` and the tensors.

    Attributes:
        index: (N,) places of the training images in `images`; the images are never copied as a whole.
        mirrored: (N,) bool, images that are mirrored in every odd epoch; the others are in every even one.
        batch_size: images in a batch of the whole team.
        interrupted: whether the run has ended early because it was asked to stop.
    """

    settings: TrainSettings
    recipe: Recipe
    schedule: Schedule
    images: Images
    index: torch.Tensor
    team: Team
    model: nn.Module
    arguments: dict[str, Any]
    normalisation: Normalisation
    optimiser: Optimiser
    mirrored: torch.Tensor
    batch_size: int
    batches: int
    progress: Progress
    interrupted: bool = False

    def train(
        self, data: str, validation: Images | None, path: Path, stop: threading.Event | None
    ) -> Iterator[events.TrainEvent]:
        """Train to the end of the run, with its checkpoint at `path`; ends early, `interrupted`, when `stop` is set.

        `data` is the name of the data set.

        Raises:
            TrainingDiverged: a loss, or a weight after an epoch, is not finite.
            TeammateLost: another process of the run has ended.
        """
        team, first_epoch = self.team, self.progress.step // self.batches + 1
        yield events.TrainStarted(
            model=self.settings.model,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            images=len(self.index),
            epochs=self.settings.epochs,
            first_epoch=first_epoch,
            first_batch=self.progress.step % self.batches + 1,
            batches=self.batches,
            precision=self.progress.precision,
            device=str(team.device),
            data=data,
        )
        if self.reached() or not self.steps_left:  # only publishing was left to do
            return
        progress = self.progress
        began = time.perf_counter()
        shared, notice = self._shared()
        progress.seconds += time.perf_counter() - began
        if team.first:
            self.save(path)  # including the decisions, so that a resumed run does not measure again
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
            progress.seconds += seconds
            progress.epoch_seconds += seconds
            if whole := progress.step == epoch * self.batches:
                progress.epochs.append(self._done(epoch, validation))
                progress.epoch_seconds = 0.0
            if team.first:
                self.save(path)
            if whole:
                yield progress.epochs[-1]
            self.interrupted = not whole or _is_set(stop, team)
            if self.interrupted:
                yield events.Notice(f"interrupted in epoch {epoch}; continue with the same command and --resume")
                return

    def _shared(self) -> tuple[nn.Module, events.Notice | None]:
        """The model in training form: compiled if worthwhile, with gradients averaged over all processes."""
        settings, team, progress = self.settings, self.team, self.progress
        network: nn.Module | None = None
        failure = ""
        compiling = partial(
            compiled,
            model=self.model,
            device=team.device,
            precision=progress.precision,
            batch=len(team.mine(torch.arange(self.batch_size))),
            steps=self.schedule.expected_steps(self.batches),
        )
        wanted: Wanted = settings.compile if progress.compiled is None else "on" if progress.compiled else "off"
        try:
            network = compiling(wanted) if team.first else None
        except Unusable as error:
            failure = str(error)
        progress.compiled = team.told(lambda: network is not None) > 0
        if progress.compiled and not team.first:
            with suppress(Unusable):
                network = compiling("on")
        if progress.compiled and team.mean(network is not None) < 1:  # the others would wait for the one that cannot
            progress.compiled, network, failure = False, None, "torch.compile fails in another process of this run"
        notice = "a step of training is compiled (torch.compile)" if progress.compiled else ""
        notice = f"{failure}; trained without it" if failure else notice
        shared = team.share(self.model if network is None else network, partly_used=":" in settings.model)
        return shared, events.Notice(notice) if notice else None

    def _done(self, epoch: int, validation: Images | None) -> events.EpochDone:
        accuracy = answered = None
        if validation is not None:
            accuracy = self._accuracy(validation, averaged=False)
            target = self.settings.target_accuracy
            may_be_last = epoch == self.schedule.cycle(epoch)[1] or (target is not None and accuracy >= target)
            if self.averaged and may_be_last:
                answered = self._accuracy(validation, averaged=True)
        return events.EpochDone(
            epoch=epoch,
            loss=self.progress.mean_loss,
            validation_accuracy=accuracy,
            seconds=self.progress.epoch_seconds,
            images_per_second=self.batches * self.batch_size / self.progress.epoch_seconds,
            validation_accuracy_tta=answered,
        )

    def _accuracy(self, images: Images, *, averaged: bool) -> float:
        predictor = self.predictor(averaged=averaged)
        return self.team.told(lambda: evaluate(predictor, images).accuracy)

    def _batches(self, shared: nn.Module, epoch: int, stop: threading.Event | None) -> Iterator[events.TrainProgress]:
        """Train on the rest of an epoch; ends early when `stop` is set."""
        team, progress = self.team, self.progress
        begin, end = self.schedule.cycle(epoch)
        before, steps = (begin - 1) * self.batches, (end - begin + 1) * self.batches
        order_seed = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.index), generator=order_seed)
        first = progress.step % self.batches
        if first == 0:
            progress.loss_sum, progress.loss_count = 0.0, 0
        self.model.train()
        began = reported_at = time.perf_counter()
        for batch in range(first, self.batches):
            if _is_set(stop, team):
                return
            inputs, labels = self._batch(
                team.mine(order[batch * self.batch_size : (batch + 1) * self.batch_size]), epoch
            )
            with autocast(team.device, progress.precision), losses():
                logits = shared(inputs)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
            loss = loss * (len(labels) * team.size / self.batch_size)  # so that the team's mean is that of all images
            value = team.mean(loss.item())
            if not math.isfinite(value):
                raise self._diverged(
                    f"the loss is {value} at step {progress.step + 1} (epoch {epoch}, batch {batch + 1})", epoch
                )
            self.model.zero_grad()
            with losses():
                loss.backward()  # type: ignore[no-untyped-call]
            rate = self.optimiser.step(progress.step - before, steps)
            progress.step += 1
            progress.loss_sum += value
            progress.loss_count += 1
            now = time.perf_counter()
            if now - reported_at >= PROGRESS_INTERVAL or batch + 1 == self.batches:
                reported_at = now
                speed = (batch + 1 - first) / (now - began)
                yield events.TrainProgress(
                    epoch=epoch,
                    batch=batch + 1,
                    loss=progress.mean_loss,
                    learning_rate=rate,
                    images_per_second=speed * self.batch_size,
                    seconds_left=self.steps_left / speed,
                )

    def _batch(self, places: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented, normalised images (B, 3, S, S) at these places of `index`, and their labels (B,)."""
        device, settings, side = self.team.device, self.settings, self.schedule.side_in(epoch)
        images = self.images.take(self.index[places])
        pixels = augment(
            images.pixels,
            self._step_generator(),
            crop_padding=settings.crop_padding,
            flip=self.mirrored[places] ^ (epoch % 2 == 0) if settings.flip else False,
        )
        inputs = normalise(pixels.to(device), self.normalisation.mean, self.normalisation.std)
        if side < inputs.shape[-1]:
            inputs = functional.interpolate(inputs, size=(side, side), mode="bilinear", antialias=True)
        return inputs, images.labels.to(device)

    def _step_generator(self) -> torch.Generator:
        """The random generator of the present step: seeded by the step, so that an interruption changes nothing.

        Torch's own generator, from which layers such as dropout draw, gets the same seed.
        """
        seed = ((self.settings.seed * 1_000_003 + self.progress.step) * 4099 + self.team.rank) % 2**62
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def _require_finite(self, epoch: int) -> None:
        """Refuse to save weights that the last step has spoilt."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._diverged(f"the weights are not finite after step {self.progress.step} (epoch {epoch})", epoch)

    def _diverged(self, what: str, epoch: int) -> TrainingDiverged:
        kept = "the checkpoint of the last whole epoch is kept" if epoch > 1 else "nothing was learned before"
        return TrainingDiverged(f"{what}; {kept}; lower train.learning_rate (now {self.recipe.learning_rate:g})")

    @property
    def steps_left(self) -> int:
        """Steps left in the whole run."""
        return self.settings.epochs * self.batches - self.progress.step

    @property
    def averaged(self) -> bool:
        """Whether the model answers with the mean over variants of an image (test-time augmentation)."""
        return self.recipe.tta != "none"

    def reached(self) -> bool:
        """Whether the target accuracy, where there is one, was reached by the answers that the version will give."""
        target = self.settings.target_accuracy
        if target is None:
            return False
        done = self.progress.epochs
        seen = [each.validation_accuracy_tta if self.averaged else each.validation_accuracy for each in done]
        return any(accuracy is not None and accuracy >= target for accuracy in seen)

    def predictor(self, *, averaged: bool = True) -> Predictor:
        """A predictor with the present weights; without `averaged` it predicts each image once, whatever the recipe."""
        network = self.model
        if isinstance(network, Averaged) and not averaged:
            network = network.network
        return Predictor(
            network,
            self.normalisation.mean,
            self.normalisation.std,
            device=self.team.device,
            precision=self.progress.precision,
        )

    def save(self, path: Path) -> None:
        """Write the checkpoint, in place of the one before."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.dump().items()}
        checkpoint.save(path, tensors, self.progress.to_json() | {"launch": self.team.run})

    def continues(self, path: Path, launch: Launch) -> bool:
        """Whether the checkpoint at `path` belongs to this very launch, which torchrun has restarted."""
        found = checkpoint.load(path)
        if found is None:
            return False
        return found[1].get("launch") == launch.run if launch.run != "none" else launch.restarts > 0

    def restore(self, path: Path) -> None:
        """Continue from the checkpoint at `path`.

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
        self.model.load_state_dict(checkpoint.within("model.", tensors))
        self.optimiser.load(checkpoint.within("optimiser.", tensors))
        self.progress = Progress.of_json(state)


def _is_set(stop: threading.Event | None, team: Team) -> bool:
    """Whether any process of the team was asked to stop."""
    return team.mean(stop is not None and stop.is_set()) > 0
