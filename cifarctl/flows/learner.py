"""The learner without a broker: labelled images in, challengers through the gate, events out."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.data import Images
from cifarctl.errors import AliasConflict, IntegrityError, RegistryBusy, RegistryError, VersionNotFound
from cifarctl.flows.evaluate import evaluate
from cifarctl.flows.publish import publish_like
from cifarctl.models.predictor import Precision, Predictor, choose_precision
from cifarctl.online.buffer import ReplayBuffer
from cifarctl.online.drift import Detection, ErrorMonitor
from cifarctl.online.fit import Lesson
from cifarctl.online.gate import Record, decide
from cifarctl.online.inputs import InputMonitor
from cifarctl.online.rate import AdaptiveRate
from cifarctl.online.strategies import strategy
from cifarctl.online.watch import Watch
from cifarctl.registry import Alias, Registry, checkpoint
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.settings import OnlineSettings

RECENT_OUTCOMES = 500  # labelled images over which the prequential accuracy is told
QUICK_UPDATES = 6  # after a drift so many updates come four times as often
FEWEST_AFTER_DRIFT = 32  # images of the new concept without which an update is not worth its time
FORMER_CHAMPIONS = 3  # that are tried again with every update
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class _Candidate:
    """Who asks to replace the champion; `version` None = newly trained, not published yet."""

    version: int | None
    model: torch.nn.Module
    record: Record


class Learner:
    """One active learner of a registry; a context manager that holds the registry's learner lock.

    `reference` is a sample of the training images, `validation` the images that no training reads. The version
    that `alias` names is the champion; only the gate replaces it.
    """

    def __init__(
        self,
        registry: Registry,
        settings: OnlineSettings,
        alias: str,
        *,
        reference: Images,
        validation: Images,
        on_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry, self.settings, self.alias = registry, settings, alias
        self._reference, self._validation = reference, validation
        self._on_step, self._clock = on_step, clock
        self._propose = strategy(settings.strategy)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._lock = FileLock(self.folder / "lock", blocking=False)
        self._inputs = InputMonitor(validation)
        self._monitor = ErrorMonitor(settings.detector, settings.seed)
        self._rate = AdaptiveRate(settings.learning_rate, settings.learning_rate_min, settings.learning_rate_max)
        self._outcomes: deque[bool] = deque(maxlen=RECENT_OUTCOMES)
        self._alias_generation = 0  # of the alias move that made the champion
        self._updated_at = 0  # labelled images seen when the last update began
        self._drift_at: int | None = None  # labelled images seen when the present concept began
        self._drift_pending = False
        self._quick_updates = 0
        self._clock_updated = clock()
        self._watch: Watch[Predictor] | None = None
        self._precision: Precision | None = None  # measured with the first update
        self._validation_of: dict[int, float] = {}  # accuracies of former champions, measured once

    @property
    def folder(self) -> Path:
        """Where the active learner keeps its checkpoint and lock."""
        return self.registry.dir / "learner"

    def __enter__(self) -> Learner:
        """Take the lock, load the champion and the last checkpoint.

        Raises:
            RegistryBusy: another learner works on this registry.
            VersionNotFound: there is no champion to learn from.
        """
        self._take_lock()
        try:
            alias = self.registry.alias(self.alias)
            if alias is None:
                raise VersionNotFound(f"the alias {self.alias} names no version; train one first: cifarctl train")
            self._adopt(alias, load(self.registry, alias.version))
            self.buffer = ReplayBuffer(
                self.settings.buffer_size,
                len(self.classes),
                holdout_size=self.settings.holdout_size,
                holdout_every=self.settings.holdout_every,
                generator=self._generator,
            )
            self._restore()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def champion(self) -> int:
        """The version that is to be beaten."""
        return self._champion.manifest.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the champion knows."""
        return self._champion.manifest.classes

    @property
    def split(self) -> str:
        """Hash of the split of the images that the champion was trained on."""
        return self._champion.manifest.split.sha256

    @property
    def fresh(self) -> int:
        """Labelled examples since the last update."""
        return self.buffer.labelled - self._updated_at

    def started(self) -> events.LearnerStarted:
        """The frame of this learner's work."""
        return events.LearnerStarted(
            pid=os.getpid(),
            version=self.champion,
            strategy=self.settings.strategy,
            size=len(self.buffer),
            capacity=self.buffer.capacity,
        )

    def observe(self, ids: Sequence[str], images: Images) -> Iterator[events.LearnEvent]:
        """Test, then remember: the champion predicts labelled images before any of them can be learned from.

        `images.labels` (N,) must all be classes of the champion; repeated ids count once.
        """
        if not ids:
            return
        correct = _correct(self._predictor, images).tolist()
        watch = self._watch
        shadow = _correct(watch.previous, images).tolist() if watch else correct
        for image_id, pixels, label, right, before in zip(
            ids, images.pixels, images.labels.tolist(), correct, shadow, strict=True
        ):
            if not self.buffer.add(image_id, pixels, label):
                continue
            self._outcomes.append(right)
            detection = self._monitor.update(not right)
            if detection is not None:
                yield from self._notice_drift(detection)
            if watch is not None:
                watch.pair(before, right)
        if watch is not None and (verdict := watch.verdict()) is not None:
            self._watch = None
            if verdict:
                yield from self._roll_back(verdict)

    def due(self) -> str | None:
        """What calls for an update now, if anything does."""
        settings, fresh = self.settings, self.fresh
        if self.buffer.labelled < min(settings.min_examples, settings.buffer_size):
            return None
        if self._drift_pending and self._since_drift() >= FEWEST_AFTER_DRIFT:
            return "drift"
        if fresh >= self._every:
            return f"{fresh} labelled images"
        waited = self._clock() - self._clock_updated
        if fresh >= settings.min_examples and waited >= settings.update_interval:
            return f"{waited:.0f} s"
        return None

    def update(self, trigger: str) -> Iterator[events.LearnEvent]:
        """Put former champions and a newly trained challenger before the gate, promote one or none.

        Ends with a RetrainResult, and a RateChanged where the outcome moves the learning rate.
        """
        began = time.perf_counter()
        fresh = self.fresh
        champion, held_out, lesson = self._champion, self._held_out(), self._lesson()
        yield events.RetrainStarted(fresh, trigger, self.settings.strategy, self._rate.value)

        moved = self._inputs.moved(lesson.recent)
        tolerance = self.settings.validation_tolerance_moved if moved else self.settings.validation_tolerance
        floor = self._base_accuracy - tolerance
        old = Record(_correct(self._predictor, held_out), self._validation_accuracy)
        for candidate in self._candidates(lesson, held_out):
            # A former champion costs no training, so those are tried first; each spends its part of the error.
            alpha = self.settings.gate_alpha / (1 if candidate.version is None else FORMER_CHAMPIONS)
            decision = decide(old, candidate.record, alpha=alpha, validation_floor=floor)
            if decision.promote:
                break
        # Only now: an update that is interrupted while it trains is due again.
        self._updated_at, self._clock_updated = self.buffer.labelled, self._clock()
        self._drift_pending, self._quick_updates = False, max(0, self._quick_updates - 1)
        reasons, version = list(decision.reasons), None
        if moved:
            reasons.append("the inputs have moved away from the validation images")
        if decision.promote:
            version, refusal = self._promote(candidate, reasons)
            reasons += refusal
        else:
            self.registry.record_rejection(alias=self.alias, who="learner", why="; ".join(reasons))
        yield events.RetrainResult(
            outcome="rejected" if version is None else "promoted",
            examples=fresh,
            champion={"version": champion.manifest.version} | _figures(old),
            challenger={"version": version} | _figures(candidate.record),
            reasons=reasons,
            seconds=time.perf_counter() - began,
        )
        before = self._rate.value
        if version is not None:
            if self._rate.promoted():
                yield events.RateChanged(before, self._rate.value, "a challenger was promoted")
        elif not self._quick_updates and not moved and self._rate.calm():
            yield events.RateChanged(before, self._rate.value, "nothing was gained")

    def not_enough(self) -> events.RetrainResult:
        """The result of an update that was asked for too early."""
        champion = {
            "version": self.champion,
            "stream_accuracy": None,
            "validation_accuracy": self._validation_accuracy,
        }
        reason = f"{self.fresh} labelled examples since the last update, {self.settings.min_examples} are wanted"
        return events.RetrainResult("not_enough_data", self.fresh, champion, {}, [reason], 0.0)

    def follow_alias(self) -> Iterator[events.LearnEvent]:
        """Start from another version where somebody has moved the alias: a promotion or a rollback by hand."""
        alias = self.registry.alias(self.alias)
        if alias is None or alias.generation == self._alias_generation:
            return
        old = self.champion
        try:
            loaded = load(self.registry, alias.version)
            if loaded.manifest.classes != self.classes:
                raise IntegrityError(f"version {alias.version} has other classes")
        except RegistryError as error:
            self._alias_generation = alias.generation
            yield events.Notice(f"the learner stays with version {old}: {error}")
            return
        self._adopt(alias, loaded)
        if alias.version != old:
            self._watch = None
            yield events.ChampionChanged(old, alias.version)

    def status(self) -> events.LearnerStatus:
        """Where the learner stands."""
        return events.LearnerStatus(
            labelled=self.buffer.labelled,
            size=len(self.buffer),
            capacity=self.buffer.capacity,
            holdout=len(self.buffer.holdout),
            class_counts=self.buffer.class_counts(),
            accuracy=sum(self._outcomes) / len(self._outcomes) if self._outcomes else None,
            learning_rate=self._rate.value,
            drift="drift" if self._drift_pending or self._quick_updates else "calm",
            until_update=max(0, self._every - self.fresh),
        )

    def save(self) -> None:
        """Checkpoint of buffer, counters and random state in one atomic file.

        Input offsets are committed after it; what was read in between is read again after a crash and known by its id.
        """
        tensors, state = self.buffer.dump()
        tensors["generator"] = self._generator.get_state()
        own = {
            "updated_at": self._updated_at,
            "drift_at": self._drift_at,
            "drift_pending": self._drift_pending,
            "quick_updates": self._quick_updates,
            "rate": self._rate.value,
            "outcomes": list(self._outcomes),
        }
        checkpoint.save(self.folder / CHECKPOINT, tensors, {"of": self._identity(), "buffer": state, "learner": own})

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the learner that takes it over."""
        settings, manifest = self.settings, self._champion.manifest
        return {
            "classes": list(manifest.classes),
            "split": manifest.split.sha256,
            "buffer_size": settings.buffer_size,
            "holdout_size": settings.holdout_size,
            "holdout_every": settings.holdout_every,
        }

    def _restore(self) -> None:
        found = checkpoint.load(self.folder / CHECKPOINT)
        if found is None or found[1].get("of") != self._identity():  # other images, classes or sizes: begin afresh
            return
        tensors, state = found
        self.buffer.load(tensors, state["buffer"])
        self._generator.set_state(tensors["generator"])
        own: dict[str, Any] = state["learner"]
        self._updated_at, self._drift_at = own["updated_at"], own["drift_at"]
        self._drift_pending = own["drift_pending"]
        self._quick_updates, self._rate.value = own["quick_updates"], own["rate"]
        self._outcomes.extend(own["outcomes"])

    def _take_lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RegistryBusy(
                f"another learner works on {self.registry.dir} and learns from the same examples; stop it first"
            ) from None
        except OSError as error:
            raise RegistryError(f"{self.folder} cannot be written: {error.strerror}") from None

    def _adopt(self, alias: Alias, champion: LoadedModel) -> None:
        """Make `champion` the version to learn from and to measure against, as of this move of the alias."""
        self._champion = champion
        self._alias_generation = alias.generation
        self._predictor = champion.predictor()
        self._validation_accuracy = evaluate(self._predictor, self._validation).accuracy
        recorded = champion.manifest.metrics.get("base_validation_accuracy")
        self._base_accuracy = self._validation_accuracy if recorded is None else recorded
        self._monitor.reset()

    @property
    def _every(self) -> int:
        """Labelled images between two updates."""
        every = self.settings.update_every
        return max(1, every // 4) if self._quick_updates else every

    def _since_drift(self) -> int:
        return self.buffer.labelled - (self._drift_at or 0)

    def _held_out(self) -> Images:
        """The held-out images of the present concept."""
        every = self.settings.holdout_every
        return self.buffer.holdout.newest(self.buffer.labelled // every - (self._drift_at or 0) // every)

    def _lesson(self) -> Lesson:
        settings, normalisation = self.settings, self._champion.manifest.normalisation
        self._precision = self._precision or choose_precision(
            "auto", self._champion.model, torch.device("cpu"), settings.batch_size, train=True
        )
        held_out_share = 1 - 1 / settings.holdout_every
        return Lesson(
            recent=self.buffer.recent.newest(max(1, int(self._since_drift() * held_out_share))),
            reservoir=self.buffer.reservoir.images(),
            reference=self._reference,
            mean=normalisation.mean,
            std=normalisation.std,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=self._rate.value,
            precision=self._precision,
            generator=self._generator,
            on_step=self._on_step,
        )

    def _notice_drift(self, detection: Detection) -> Iterator[events.LearnEvent]:
        self._drift_at = max(0, self.buffer.labelled - detection.since)
        self._drift_pending, self._quick_updates = True, QUICK_UPDATES
        yield events.DriftDetected(
            at=self.buffer.labelled,
            detector=self.settings.detector,
            since=detection.since,
            error_before=detection.error_before,
            error_after=detection.error_after,
        )
        before = self._rate.value
        if self._rate.drift():
            yield events.RateChanged(before, self._rate.value, "drift")

    def _candidates(self, lesson: Lesson, held_out: Images) -> Iterator[_Candidate]:
        """Who may replace the champion: versions that were champions before, then a newly trained one."""
        for version in self.registry.predecessors(self.alias)[:FORMER_CHAMPIONS]:
            try:
                loaded = load(self.registry, version)
            except RegistryError:  # damaged or just collected: no candidate
                continue
            if loaded.manifest.classes == self.classes:
                yield self._candidate(version, loaded.model, loaded.predictor(), held_out)
        challenger = self._propose(self._champion.model, lesson)
        mean, std = lesson.mean, lesson.std
        yield self._candidate(None, challenger, Predictor(challenger, mean, std), held_out)

    def _candidate(
        self, version: int | None, model: torch.nn.Module, predictor: Predictor, held_out: Images
    ) -> _Candidate:
        known = None if version is None else self._validation_of.get(version)
        accuracy = evaluate(predictor, self._validation).accuracy if known is None else known
        if version is not None:
            self._validation_of[version] = accuracy
        return _Candidate(version, model, Record(_correct(predictor, held_out), accuracy))

    def _promote(self, candidate: _Candidate, reasons: list[str]) -> tuple[int | None, list[str]]:
        """Publish where it is new, and promote; the version, or None and why not."""
        champion, record, version = self._champion.manifest, candidate.record, candidate.version
        if version is None:
            version = publish_like(
                self.registry,
                candidate.model,
                champion,
                settings=self.settings.model_dump(mode="json"),
                metrics={
                    "validation_accuracy": record.validation_accuracy,
                    "base_validation_accuracy": self._base_accuracy,
                    "stream_accuracy": record.stream_accuracy,
                },
                parent=champion.version,
                origin="learner",
            ).version
        else:
            reasons.insert(0, f"version {version} knows this concept")
        try:
            alias = self.registry.promote(
                version,
                alias=self.alias,
                who="learner",
                why="; ".join(reasons),
                expected_generation=self._alias_generation,
            )
        except AliasConflict as conflict:
            return None, [f"not promoted: {conflict}"]
        previous = self._predictor
        self._adopt(alias, load(self.registry, version))
        if self.settings.watch:
            self._watch = Watch(previous, self.settings.watch, self.settings.gate_alpha)
        return version, []

    def _roll_back(self, reason: str) -> Iterator[events.LearnEvent]:
        old = self.champion
        try:
            alias = self.registry.rollback(
                alias=self.alias, who="learner", why=reason, expected_generation=self._alias_generation
            )
        except AliasConflict:  # somebody else has decided meanwhile; follow_alias takes that over
            return
        self._adopt(alias, load(self.registry, alias.version))
        yield events.RolledBack(old, alias.version, reason)


def _correct(predictor: Predictor, images: Images) -> NDArray[np.bool_]:
    """Which images (N,) the predictor gets right."""
    if not len(images):
        return np.empty(0, dtype=np.bool_)
    right: NDArray[np.bool_] = (predictor(images.pixels).argmax(dim=1) == images.labels).numpy()
    return right


def _figures(record: Record) -> dict[str, float | None]:
    return {"stream_accuracy": record.stream_accuracy, "validation_accuracy": record.validation_accuracy}
