"""The learner without a broker: labelled images in, a lineage of challengers through the gate, events out."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events, models
from cifarctl.data import Images
from cifarctl.errors import AliasConflict, IntegrityError, RegistryError, VersionNotFound
from cifarctl.flows.canary import CanaryAlias
from cifarctl.flows.publish import publish_like
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.predictor import Precision, Predictor, choose_precision
from cifarctl.models.preprocess import Channels, normalise
from cifarctl.online import prior
from cifarctl.online.buffer import ReplayBuffer, Ring
from cifarctl.online.drift import MEMORY, ClassMonitor, Detection, ErrorMonitor
from cifarctl.online.estimate import likely_right, threshold
from cifarctl.online.fit import Lesson, sample
from cifarctl.online.gate import Decision, Guard, Pairs, decide, follow, spend
from cifarctl.online.inputs import FEWEST, WINDOW, InputMonitor, Movement, features
from cifarctl.online.lookalike import Lookalike
from cifarctl.online.rate import AdaptiveRate
from cifarctl.online.strategies import Snapshot, Start, Strategy, strategy
from cifarctl.registry import Registry, checkpoint, utc_now
from cifarctl.registry.history import Action, Move
from cifarctl.registry.loading import LoadedModel, canary, load
from cifarctl.settings import OnlineSettings

RECENT_OUTCOMES = 500  # labelled images over which the prequential accuracy is told
JUDGED = 500  # recent labelled images by which it is judged whether inputs or class frequencies have moved
ESTIMATED = 300  # validation images that estimates without labels rest on
STATISTICS = 1000  # training images that these are made to look like the stream by
APART = 300  # others, by which a lineage may judge itself
BEHIND = 4  # times as many labelled images between two updates where the learner does not keep up
WATCH_SHARE = 0.1  # of `online.gate_alpha`: to go back for no reason costs what has been learned
STARVED = 0.01  # evidence below which a trial begins anew, rather than make up for what a lineage once was
TIDY_EVERY = 10  # versions after which those that a learner has made and nobody needs are removed
HELD_OUT = 25  # newest held-out images that a snapshot must not fall on: more of them may be of an older concept
ARRIVED = 250  # newest images, labelled or not, that a lesson shows
GRID = 25  # labelled images between two looks at what is due, however they come in
SAME_DRIFT = 100  # images between two drifts at least: less, and it is the same one, noticed twice
QUICK_UPDATES = 4  # after a drift so many updates come twice as often
FEWEST_AFTER_DRIFT = 32  # labelled images of the new concept without which labels teach too little
CALM_AFTER = 500  # labelled images without a drift after which updates come half as often
CHECKPOINT = "checkpoint.safetensors"


class _Judged:
    """A model that is measured beside others."""

    def __init__(self, predictor: Predictor, images: Images, classes: int) -> None:
        self.predictor = predictor
        self._images, self._classes = images, classes

    @cached_property
    def validation(self) -> torch.Tensor:
        """Accuracy (classes,) on the validation images of each class; of a class without any, 0."""
        labels = self._images.labels
        right = torch.from_numpy(_correct(self.predictor, self._images)).float()
        hits = torch.bincount(labels, right, minlength=self._classes)
        return hits / torch.bincount(labels, minlength=self._classes).clamp(min=1)

    def likely(
        self, window: torch.Tensor, alike: torch.Tensor, labels: torch.Tensor, *, follows: bool
    ) -> NDArray[np.bool_]:
        """Which images (N, 3, 32, 32) uint8 of a window it is likely to get right, by labelled normalised ones alike.

        `follows`: it was made under this window, so that of what follows the stream the statistics were of its images.
        """
        model = self.predictor.model
        with torch.inference_mode():
            known: torch.Tensor = (model.adapted(alike) if follows and isinstance(model, Mixture) else model)(alike)
        right: NDArray[np.bool_] = likely_right(self.predictor(window), threshold(known.softmax(dim=1), labels)).numpy()
        return right


@dataclass
class _Watch:
    """The champion before a lineage's promotion goes on predicting; `pairs` has it as the challenger of what serves."""

    previous: int
    judged: _Judged
    alpha: float  # that one window may spend
    on: bool = True
    pairs: Pairs = field(default_factory=Pairs)


class Learner:
    """The active learner of a registry.

    `reference` is a sample of the training images, `validation` the images that no training reads. The version
    that `alias` names is the champion; only the gate replaces it. On trial is a lineage: the snapshots that one
    strategy makes, each from the one before. When it has won its trial, its later snapshots follow without one, as long
    as nothing is wrong with them and the champion before does not do better.
    """

    def __init__(
        self,
        registry: Registry,
        settings: OnlineSettings,
        alias: str,
        *,
        reference: Images,
        validation: Images,
        epoch: int | None = None,
        afresh: bool = False,
        canary: bool = False,
        on_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the champion and, unless it is to begin `afresh`, the last checkpoint.

        `epoch` is that of its tenure: see `flows.seat`. With `canary` the snapshot on trial is published, for `serve`
        to let it answer a share of the stream.

        Raises:
            VersionNotFound: there is no champion to learn from.
        """
        self._champion: LoadedModel  # what `_start_from` sets
        self._alias_generation: int  # of the newest alias move that is known
        self._generation: int  # of the one that made the champion, which is older while decisions are made again
        self._began: int  # the version that the lineage began with
        self._judged: _Judged  # the champion
        self._base_version: int
        self._base: _Judged  # the version that no learner has made, from which all the learner's come
        self._lineage: Strategy
        self._following: bool  # whether the champion is of the lineage
        self.registry, self.settings, self.alias = registry, settings, alias
        self._reference = reference
        judging = min(len(validation), settings.validation_size)
        self._validation = validation.take(torch.arange(judging))
        self._apart = validation.take(torch.arange(judging, min(len(validation), judging + APART)))
        self._canary = CanaryAlias(registry, alias, wanted=canary)
        self._on_step, self._clock = on_step, clock
        self._begin = strategy(settings.strategy)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._epoch = epoch
        #: Makes a decision known before it is carried out; raises Superseded where it does not count any more.
        self.commit: Callable[[Move], None] = lambda _: None
        self._inputs = InputMonitor(validation)
        self._movement = Movement()  # of the inputs
        self._confidence = Movement(columns=1)  # of the champion
        self._monitor = ErrorMonitor(settings.detector, settings.seed)
        self._rate = AdaptiveRate(settings.learning_rate, settings.learning_rate_min, settings.learning_rate_max)
        self._outcomes: deque[bool] = deque(maxlen=RECENT_OUTCOMES)
        self._arrived = Ring(ARRIVED)
        self._taught = 0  # images that lessons have shown as new
        self._updated_at = 0  # labelled images seen when the last update began
        self._updated_arrived = 0  # images seen by then
        self._concept_at = 0  # images seen when the present concept began
        self._present = 0  # labelled images of the present concept
        self._champion_at = 0  # images seen when the update began that the champion came of
        self._drift_pending = self._drifted = False
        self._quick_updates = 0
        self._clock_updated = clock()
        #: Of the checkpoint that it has taken over, as `save` was given it.
        self.reading: dict[str, Any] = {}
        self.updates = 0  # made by this process
        self.behind = False  # more comes than can be learned from: updates are made less often
        self._trials = 0  # that have begun, each of which has spent its part of the error allowed
        self._watch: _Watch | None = None
        self._challenger: _Judged | None = None
        self._snapshot: Snapshot | None = None  # of the challenger
        self._redo: list[Move] = []  # what was decided before a crash, and is decided again
        self._numbers: deque[int] = deque(maxlen=MEMORY)  # of the newest labelled images, among all seen
        self._refused = 0  # generation of an alias move that could not be followed
        self._precision: Precision | None = None  # measured with the first update
        found = registry.alias(alias)
        if found is None:
            raise VersionNotFound(f"the alias {alias} names no version; train one first: cifarctl train")
        self._alias_generation = found.generation
        self._moves = len(registry.history(alias))  # of the alias, and refusals, as far as they are known
        version = load(registry, found.version)
        self._by_class = ClassMonitor(settings.detector, len(version.manifest.classes), settings.seed)
        self._start_from(version, found.generation)
        self.buffer = ReplayBuffer(
            settings.buffer_size,
            len(self.classes),
            holdout_size=settings.holdout_size,
            holdout_every=settings.holdout_every,
            generator=self._generator,
        )
        if not afresh:
            self._restore()
        on_trial = None if self._following or self._redo else self._snapshot
        self._canary.take_over(on_trial.model if on_trial else None, self.champion)

    def close(self) -> None:
        """Let nobody be answered by what is on trial any more."""
        with suppress(RegistryError):
            self._canary.withdraw("the learner has ended")

    @property
    def folder(self) -> Path:
        """Where the active learner keeps its checkpoint."""
        return self.registry.dir / "learner"

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

    @property
    def _now(self) -> int:
        """When it is, as decisions are dated: by what has come, images and labels."""
        return self.seen + self.buffer.labelled

    @property
    def seen(self) -> int:
        """Images that have arrived, labelled or not: the number of the next one."""
        return self._arrived.added

    def see(self, pixels: torch.Tensor, *, updates: bool = True) -> Iterator[events.LearnEvent]:
        """Images (N, 3, 32, 32) uint8 as they arrive; their labels may come later, or never.

        What is due without labels is looked at after every 25th image: whether the inputs have moved, and whether to
        learn from that. Without `updates` these are left to who calls.
        """
        while len(pixels):
            now, pixels = pixels[: (size := GRID - self.seen % GRID)], pixels[size:]
            yield from self._look(*self._add(now), updates)

    def _add(self, pixels: torch.Tensor) -> tuple[str, int | None]:
        """Take in images that do not reach beyond the next look; who notices that the newest are of another kind.

        And how many these are, None where nobody does.
        """
        for image in pixels:
            self._arrived.add(image, -1)
        since = self._movement.update(features(pixels))
        if since is not None or not self._unlabelled:
            return "inputs", since
        return "confidence", self._confidence.update(self._judged.predictor(pixels).amax(dim=1, keepdim=True))

    def _look(self, detector: str, since: int | None, updates: bool) -> Iterator[events.LearnEvent]:
        """What newest images, `since` of which are of another kind, make due."""
        if since is not None and self.seen - since > self._concept_at + GRID:  # else the errors have told already
            yield from self._notice_drift(detector, self.seen - since)
        if updates and self.seen % GRID == 0 and (trigger := self._due_unlabelled()) is not None:
            yield from self.update(trigger)

    def learn(
        self, ids: Sequence[str], images: Images, *, numbers: Sequence[int] | None = None, updates: bool = True
    ) -> Iterator[events.LearnEvent]:
        """Test, then remember, then train: labelled images, and the decisions and updates that they make due.

        What is due is looked at after every 25th labelled image, so that decisions do not depend on how the images are
        cut into calls. `images.labels` (N,) must all be classes of the champion; repeated ids count once. `numbers`:
        what `seen` was when each of them arrived; without them the images arrive now. Without `updates` these are left
        to who calls.
        """
        new = self.buffer.unseen(ids)
        while new:
            size = GRID - self.buffer.labelled % GRID
            if numbers is None:
                size = min(size, GRID - self.seen % GRID)
            now, new = new[:size], new[size:]
            part, named = images.take(torch.tensor(now)), [ids[place] for place in now]
            if numbers is None:
                first = self.seen
                noticed = self._add(part.pixels)
                yield from self._observe(named, part, range(first, self.seen))
                yield from self._look(*noticed, updates)
            else:
                yield from self._observe(named, part, [numbers[place] for place in now])
            if self.buffer.labelled % GRID == 0:
                yield from self._judge()
                if updates and (trigger := self.due()) is not None:
                    yield from self.update(trigger)

    def due(self) -> str | None:
        """What calls for an update now, if labels do."""
        settings, fresh = self.settings, self.fresh
        if self.buffer.labelled < min(settings.min_examples, settings.buffer_size):
            return None
        if self._drift_pending and self._present >= FEWEST_AFTER_DRIFT:
            return "drift"
        if fresh >= self._every:
            return f"{fresh} labelled images"
        waited = self._clock() - self._clock_updated
        if fresh >= FEWEST_AFTER_DRIFT and waited >= settings.update_interval:
            return f"{waited:.0f} s"
        return None

    def _due_unlabelled(self) -> str | None:
        """What calls for an update although there are next to no labels, if anything does."""
        fresh = self.seen - max(self._updated_arrived, self._concept_at)
        if (
            not self._lineage.unlabelled
            or min(self.fresh, self._present) >= FEWEST_AFTER_DRIFT
            or fresh < (max(FEWEST, self._every // 2) if self._quick_updates else self._every)
            or not (self._quick_updates or self._inputs.moved(self._window()))
        ):
            return None
        return f"{fresh} images"

    def update(self, trigger: str) -> Iterator[events.LearnEvent]:
        """Let the lineage learn; its new snapshot goes on trial, or follows the one that serves.

        Ends with a RetrainResult, and a RateChanged where the learning rate falls.
        """
        began = time.perf_counter()
        fresh, lesson = self.fresh, self._lesson()
        yield events.RetrainStarted(fresh, trigger, self.settings.strategy, self._rate.value)
        snapshot = self._lineage.propose(lesson)
        # Only now: an update that is interrupted while it trains is due again.
        self._updated_at, self._updated_arrived = self.buffer.labelled, self.seen
        self._clock_updated = self._clock()
        self._taught = self.buffer.recent.added
        self.updates += 1
        self._drift_pending = self._drifted = False
        self._quick_updates = max(0, self._quick_updates - 1)
        if not self._sound(snapshot):
            decision = Decision(False, ("values that are not finite: the lineage begins anew",))
            yield self._settle(decision, Pairs(), Guard.none(), fresh, time.perf_counter() - began)
            return
        decision, pairs, guard = self._decide(self._put_forward(snapshot))
        yield self._settle(decision, pairs, guard, fresh, time.perf_counter() - began)
        self._show(guard)
        before = self._rate.value
        if not self._quick_updates and self._rate.calm():
            yield events.RateChanged(before, self._rate.value, "no drift since the last update")

    def not_enough(self, examples: int) -> events.RetrainResult:
        """The result of an update that was asked for when only so many examples had come."""
        champion = {
            "version": self.champion,
            "stream_accuracy": None,
            "validation_accuracy": float(self._judged.validation.mean()),
        }
        reason = f"{examples} labelled examples since the last update, {self.settings.min_examples} are wanted"
        return events.RetrainResult("not_enough_data", examples, champion, {}, [reason], 0.0)

    def follow_alias(self) -> Iterator[events.LearnEvent]:
        """Begin anew from another version where somebody has moved the alias: a promotion or a rollback by hand."""
        self._give_up_redoing(before=self._now)
        alias = self.registry.alias(self.alias)
        if alias is None or alias.generation == self._alias_generation or self._redo:
            return
        self._moves = len(self.registry.history(self.alias))
        old = self.champion
        try:
            loaded = load(self.registry, alias.version)
            if loaded.manifest.classes != self.classes:
                raise IntegrityError(f"version {alias.version} has other classes")
        except RegistryError as error:
            if self._refused != alias.generation:
                self._refused = alias.generation
                self._canary.withdraw("somebody has moved the alias")
                yield events.Notice(f"the learner stays with version {old} and promotes nothing: {error}")
            return
        if alias.version == old:
            self._alias_generation = self._generation = alias.generation
            return
        self._alias_generation = alias.generation
        self._start_from(loaded, alias.generation)
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
            shadow=self._shadow(),
        )

    def _shadow(self) -> events.Shadow | None:
        if not self._following and self._challenger is not None:
            version, pairs, alpha = None, self._pairs, self._alpha
        elif self._watching is not None:
            version, pairs, alpha = self._watching.previous, self._watching.pairs, self._watching.alpha
        else:
            return None
        return events.Shadow(version, len(pairs), pairs.challenger, pairs.champion, pairs.evidence, 1 / alpha)

    # --- observing

    def _observe(self, ids: Sequence[str], images: Images, numbers: Sequence[int]) -> Iterator[events.LearnEvent]:
        """Let everybody predict, then remember, image by image, so that it does not matter how they come in.

        Images from before the present concept began are remembered, but say nothing of it.
        """
        champion = _correct(self._judged.predictor, images)
        on_trial = self._challenger is not None and not self._following
        challenger = _correct(self._challenger.predictor, images) if self._challenger and on_trial else champion
        before: NDArray[np.bool_] | None = None  # of the version before: a drift may begin its watch at any image
        present = [place for place, number in enumerate(numbers) if number >= self._concept_at]
        if present:
            self._lineage.observe(images.take(torch.tensor(present)))
        for place, (image_id, pixels, label) in enumerate(zip(ids, images.pixels, images.labels.tolist(), strict=True)):
            self.buffer.add(image_id, pixels, label)
            if numbers[place] < self._concept_at:
                continue
            one = slice(place, place + 1)
            if on_trial:
                self._pairs += Pairs.of(champion[one], challenger[one])
            if (watch := self._watching) is not None:
                before = _correct(watch.judged.predictor, images) if before is None else before
                watch.pairs += Pairs.of(champion[one], before[one])
            self._present += 1
            self._numbers.append(numbers[place])
            self._outcomes.append(bool(champion[place]))
            yield from self._watch_errors(label, numbers[place], not champion[place])

    def _watch_errors(self, label: int, number: int, wrong: bool) -> Iterator[events.LearnEvent]:
        """Let the detectors know the outcome of an image."""
        detector, detection = self.settings.detector, self._monitor.update(wrong)
        of_class = self._by_class.update(label, number, wrong)
        if detection is not None:
            yield from self._notice_drift(detector, self._numbers[-detection.since], _errors(detection))
        elif of_class is not None:
            began, detection = of_class
            yield from self._notice_drift(f"{detector}, {self.classes[label]}", began, _errors(detection))

    def _judge(self) -> Iterator[events.LearnEvent]:
        """Promote a challenger that has won its trial; go back where the champion before does better."""
        watch = self._watching
        if watch is not None and watch.pairs.evidence >= 1 / watch.alpha:
            yield from self._roll_back(watch)
        elif watch is not None and len(watch.pairs) >= self.settings.watch:
            watch.on = False
        self._give_up_redoing(before=self._now)
        if not self._following and self._pairs.evidence < STARVED:
            self._begin_trial()
        revised = self._lineage.revise()
        if revised is not None and not self._sound(revised):
            revised = None
        if revised is not None:
            self._put_forward(revised)
        if self._challenger is None or not (revised if self._following else self._pairs.evidence >= 1 / self._alpha):
            if revised is not None:
                self._show()
            return
        decision, pairs, guard = self._decide(self._challenger)
        if decision.promote:
            yield self._settle(decision, pairs, guard, self.fresh, 0.0)
        elif not self._following and len(self._pairs) >= WINDOW:
            # Unsound, and by now a drift of the inputs would have been noticed: what was won is no credit for later.
            yield self._settle(decision, pairs, guard, self.fresh, 0.0)
            self._begin_trial()
        else:
            self._show(guard)

    def _again(self, action: str) -> Move | None:
        """What was decided here before a crash, where that is what is decided now; else the rest is given up."""
        if self._redo and (self._redo[0].action, self._redo[0].at) == (action, self._now):
            return self._redo.pop(0)
        self._give_up_redoing(before=math.inf)
        return None

    def _give_up_redoing(self, *, before: float) -> None:
        """Leave to `follow_alias` what was to be decided again `before` that time, as `_now` counts, and was not."""
        if self._redo and (self._redo[0].at or 0) < before:
            self._redo, self._alias_generation = [], self._generation

    def _notice_drift(
        self, detector: str, began: int, errors: tuple[float, float] | None = None
    ) -> Iterator[events.LearnEvent]:
        """The present concept began with the image of the number `began`; `errors` before and after, if they told."""
        before, after = self._error_rates(began) if errors is None else errors
        self._by_class.reset()  # what has changed is known now
        known = abs(began - self._concept_at) <= SAME_DRIFT and self._concept_at > 0
        since = sum(number >= began for number in self._numbers)
        if not known:
            self._concept_at, self._present, self._drifted = began, since, True
        self._drift_pending = True
        self._quick_updates = QUICK_UPDATES
        self._watch_on()
        if not self._following and not known:  # what came before says little of what is to come
            self._begin_trial()
        yield events.DriftDetected(
            at=self.seen,
            detector=detector,
            since=self.seen - began,
            error_before=before,
            error_after=after,
        )
        rate = self._rate.value
        if self._rate.drift():
            yield events.RateChanged(rate, self._rate.value, "drift")

    def _error_rates(self, began: int) -> tuple[float | None, float | None]:
        """The prequential error before and after the image of that number, None of no labelled images."""
        wrong = [not right for right in self._outcomes]
        split = max(0, len(wrong) - sum(number >= began for number in self._numbers))
        before, after = (sum(part) / len(part) if part else None for part in (wrong[:split], wrong[split:]))
        return before, after

    # --- deciding

    def _begin_trial(self) -> None:
        self._trials += 1
        self._pairs = Pairs()
        self._canary.withdraw("its trial is over")

    @property
    def _watching(self) -> _Watch | None:
        """The watch, while it lasts."""
        return self._watch if self._watch is not None and self._watch.on else None

    def _watch_on(self) -> None:
        """Open another window of a watch that has ended."""
        watch = self._watch
        if watch is not None and not watch.on:
            watch.pairs, watch.on = Pairs(), True

    @property
    def _watch_alpha(self) -> float:
        """The error of each window of a watch: the same for all, so that no lineage is ever beyond recall."""
        return self.settings.gate_alpha * WATCH_SHARE

    @property
    def _alpha(self) -> float:
        """The error that the present trial may spend."""
        return spend(self.settings.gate_alpha, self._trials)

    def _sound(self, snapshot: Snapshot) -> bool:
        """Whether parameters and answers are finite; where they are not the lineage begins anew."""
        try:
            canary(snapshot.model, self._champion.manifest.normalisation)
            sound = all(bool(tensor.isfinite().all()) for tensor in snapshot.model.state_dict().values())
        except IntegrityError:
            sound = False
        if not sound:
            self._lineage, self._began = self._lineage_of(self._champion), self.champion
        return sound

    def _put_forward(self, snapshot: Snapshot) -> _Judged:
        """Make `snapshot` the challenger."""
        self._challenger, self._snapshot = self._measured(Predictor(snapshot.model, *self._normalisation)), snapshot
        return self._challenger

    def _decide(self, challenger: _Judged) -> tuple[Decision, Pairs, Guard]:
        """What the trial says of the challenger so far, or whether it may follow, with the figures of that."""
        guard = self._guard(challenger)
        scarce = self._scarce
        if not self._following:
            pairs = self._likely(challenger) if scarce else self._pairs
            return decide(pairs, guard, alpha=self._alpha, estimated=scarce), pairs, guard
        held_out = self._held_out()
        pairs = Pairs.of(_correct(self._judged.predictor, held_out), _correct(challenger.predictor, held_out))
        if scarce:
            pairs = self._likely(challenger)
        alpha, changed = self.settings.gate_alpha, self._changed(challenger.predictor)
        return follow(pairs, guard, changed=changed, alpha=alpha, estimated=scarce), pairs, guard

    @property
    def _normalisation(self) -> tuple[Channels, Channels]:
        normalisation = self._champion.manifest.normalisation
        return normalisation.mean, normalisation.std

    def _guard(self, challenger: _Judged) -> Guard:
        """What the validation images say, weighed as the classes come at present."""
        recent = max(self._newest(JUDGED), self._window(), key=len)
        if self.settings.follow_relabelling:
            return Guard.none("online.follow_relabelling")
        if self._inputs.moved(recent):
            return Guard.none("the inputs have moved away from the validation images")
        weights = torch.full((len(self.classes),), 1 / len(self.classes))
        if len(recent):
            weights = prior.estimate(self._base.predictor(recent.pixels))
        base, old, new = (
            float((weights * judged.validation).sum()) for judged in (self._base, self._judged, challenger)
        )
        return Guard(old, new, base - self.settings.validation_tolerance)

    def _settle(
        self, decision: Decision, pairs: Pairs, guard: Guard, examples: int, seconds: float
    ) -> events.RetrainResult:
        """Carry out a decision on the newest snapshot."""
        champion, reasons, version = self.champion, list(decision.reasons), None
        if not decision.promote:
            if self._again("reject") is None:
                self._carry_out("reject", champion, "; ".join(reasons))
        else:
            try:
                version = self._promote(reasons, pairs, guard)
            except AliasConflict as conflict:
                reasons.append(f"not promoted: {conflict}")
        return events.RetrainResult(
            outcome="rejected" if version is None else "promoted",
            examples=examples,
            champion={"version": champion, "stream_accuracy": pairs.champion, "validation_accuracy": guard.champion},
            challenger={
                "version": version,
                "stream_accuracy": pairs.challenger,
                "validation_accuracy": guard.challenger,
            },
            reasons=reasons,
            seconds=seconds,
        )

    def _promote(self, reasons: Sequence[str], pairs: Pairs, guard: Guard) -> int:
        """Publish the newest snapshot and let it serve, unless that was done before a crash; the version.

        Raises:
            AliasConflict: somebody else has moved the alias.
        """
        previous = self.champion, self._judged
        if (move := self._again("promote")) is not None:
            assert move.to_version is not None
            version, self._generation = move.to_version, move.generation
        else:
            if not self._unmoved:  # before there is a version for nothing
                raise AliasConflict(f"somebody else has moved the alias {self.alias}")
            version = self._published(pairs, guard)
            self._generation = self._alias_generation = self._carry_out("promote", version, "; ".join(reasons))
        self._canary.withdraw(f"version {version} is promoted")
        self._champion = load(self.registry, version)
        self._judged = self._measured(self._champion.predictor())
        self._champion_at = self._updated_arrived
        self._confidence.reset()
        if not self._following:
            self._following = True
            self._reset_errors()
            self._watch = _Watch(*previous, self._watch_alpha) if self.settings.watch else None
        else:
            self._watch_on()
        return version

    def _carry_out(self, action: Action, version: int, why: str) -> int:
        """Commit a decision, then do it; the generation that the alias has after it.

        Raises:
            AliasConflict: somebody else has moved the alias.
            Superseded: another learner has taken over.
        """
        move = Move(
            time=utc_now().isoformat(timespec="milliseconds"),
            alias=self.alias,
            action=action,
            from_version=self.champion,
            to_version=version,
            who="learner",
            why=why,
            generation=self._alias_generation + (action != "reject"),
            epoch=self._epoch,
            at=self._now,
        )
        self.commit(move)
        alias = self.registry.carry_out(move)
        self._moves += 1
        return alias.generation

    def _published(self, pairs: Pairs, guard: Guard) -> int:
        """The version of the newest snapshot: the canary where that is it, else a new one."""
        assert self._snapshot is not None
        if (shown := self._canary.version_of(self._snapshot.model, self.champion)) is not None:
            return shown
        version = publish_like(
            self.registry,
            self._snapshot.model,
            self._champion.manifest,
            name=self._snapshot.architecture,
            arguments=self._snapshot.arguments,
            settings=self.settings.model_dump(mode="json"),
            metrics={
                "validation_accuracy": guard.challenger,
                "stream_accuracy": pairs.challenger,
                "labelled": float(self.buffer.labelled),
                "base": float(self._base_version),
            },
            parent=self.champion,
            origin="learner",
        ).version
        if version % TIDY_EVERY == 0:  # there are so many snapshots that nobody else could
            self.registry.gc(of="learner")
        return version

    def _show(self, guard: Guard | None = None) -> None:
        """Make the snapshot on trial the canary, unless the validation images speak against it; no decision."""
        if not self._canary.wanted or self._challenger is None or self._following or self._redo or not self._unmoved:
            return
        guard = guard or self._guard(self._challenger)
        if guard.holds:
            version = self._published(self._pairs, guard)
            self._canary.show(version, f"on trial against version {self.champion}: {guard}")
        else:
            self._canary.withdraw(str(guard))

    @property
    def _unmoved(self) -> bool:
        """Whether the alias is where this learner believes that it is."""
        alias = self.registry.alias(self.alias)
        return alias is not None and alias.generation == self._alias_generation

    def _roll_back(self, watch: _Watch) -> Iterator[events.LearnEvent]:
        old, pairs = self.champion, watch.pairs
        reason = (
            f"of {len(pairs):,} labelled images version {watch.previous} alone gets {pairs.gained} right, version "
            f"{old} alone {pairs.lost}"
        )
        try:
            if (move := self._again("rollback")) is not None:
                generation = move.generation
            else:
                generation = self._alias_generation = self._carry_out("rollback", watch.previous, reason)
            restored = load(self.registry, watch.previous)
        except RegistryError as error:  # moved by somebody else, which follow_alias takes over, or no longer there
            self._watch = None
            yield events.Notice(f"version {watch.previous} does better, but is not gone back to: {error}")
            return
        self._start_from(restored, generation)
        yield events.RolledBack(old, watch.previous, reason)

    # --- beginning, remembering

    def _start_from(self, champion: LoadedModel, generation: int) -> None:
        """Begin a lineage from `champion`, the version to be beaten as of that move of the alias."""
        self._champion, self._began = champion, champion.manifest.version
        self._generation = generation
        self._judged = self._measured(champion.predictor())
        base = self._first(champion)
        self._base_version = base.manifest.version
        self._base = self._judged if base is champion else self._measured(base.predictor())
        self._lineage = self._lineage_of(champion)
        self._challenger = self._snapshot = None
        self._following = False
        self._watch = None
        self._champion_at = 0
        self._confidence.reset()
        self._reset_errors()
        self._begin_trial()

    def _reset_errors(self) -> None:
        """Another lineage predicts, whose errors have another mean."""
        self._monitor.reset()
        self._by_class.reset()

    def _first(self, version: LoadedModel) -> LoadedModel:
        """The version that all this began with: what a learner has learned since is no measure of a learner."""
        base = version.manifest.metrics.get("base")
        try:
            return version if base is None else load(self.registry, int(base))
        except RegistryError:  # no longer there
            return version

    def _lineage_of(self, version: LoadedModel) -> Strategy:
        return self._begin(start_of(version, self._generator, self.settings))

    def save(self, reading: Mapping[str, Any] | None = None) -> None:
        """Checkpoint of all that decisions depend on, in one atomic file; `reading` is for whoever reads the stream.

        Input offsets are committed after it; what was read in between is read again after a crash.

        Raises:
            Superseded: another learner has taken over.
        """
        kept, state = self.buffer.dump()
        learned, lineage = self._lineage.dump()
        arrived = self._arrived.newest(ARRIVED)
        tensors = kept | {f"lineage/{name}": tensor for name, tensor in learned.items()}
        tensors |= {"generator": self._generator.get_state(), "arrived": arrived.pixels}
        tensors |= {"errors": self._monitor.dump(), "movement": self._movement.dump()}
        errors, numbers = self._by_class.dump()
        tensors |= {f"errors/{label}": outcomes for label, outcomes in enumerate(errors)}
        tensors |= {"confidence": self._confidence.dump()}
        snapshot = None
        if self._snapshot is not None:
            tensors |= {f"snapshot/{name}": tensor for name, tensor in self._snapshot.model.state_dict().items()}
            snapshot = {"architecture": self._snapshot.architecture, "arguments": self._snapshot.arguments}
        watch = self._watch
        own = {
            "strategy": self._kind(),
            "champion": self.champion,
            "generation": self._generation,
            "moves": self._moves - len(self._redo),
            "began": self._began,
            "numbers": list(self._numbers),
            "class_numbers": numbers,
            "updated_at": self._updated_at,
            "taught": self._taught,
            "precision": self._precision,
            "arrived": self._arrived.added,
            "updated_arrived": self._updated_arrived,
            "concept": [self._concept_at, self._present],
            "champion_at": self._champion_at,
            "drift_pending": self._drift_pending,
            "drifted": self._drifted,
            "quick_updates": self._quick_updates,
            "rate": self._rate.value,
            "outcomes": list(self._outcomes),
            "snapshot": snapshot,
            "trials": self._trials,
            "pairs": astuple(self._pairs),
            "following": self._following,
            "watch": watch and [watch.previous, watch.on, astuple(watch.pairs)],
            "lineage": lineage,
            "reading": dict(reading or {}),
            "behind": self.behind,
        }
        with nullcontext() if self._epoch is None else self.registry.in_epoch(self._epoch):
            checkpoint.save(
                self.folder / CHECKPOINT, tensors, {"of": self._identity(), "buffer": state, "learner": own}
            )

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the learner that takes it over."""
        settings, manifest = self.settings, self._champion.manifest
        return {
            "format": 4,
            "classes": list(manifest.classes),
            "split": manifest.split.sha256,
            "buffer_size": settings.buffer_size,
            "holdout_size": settings.holdout_size,
            "holdout_every": settings.holdout_every,
        }

    def _kind(self) -> list[Any]:
        """What makes lineages of different kinds, none of which can take over another's state."""
        return [self.alias, self.settings.strategy, self.settings.follow_relabelling]

    def _restore(self) -> None:
        found = checkpoint.load(self.folder / CHECKPOINT)
        if found is None or found[1].get("of") != self._identity():  # other images, classes or sizes: begin afresh
            return
        tensors, state = found
        own: dict[str, Any] = state["learner"]
        self.buffer.load(tensors, state["buffer"])
        self._updated_at, self._updated_arrived = own["updated_at"], own["updated_arrived"]
        self._concept_at, self._present = own["concept"]
        self._taught, self._precision = own["taught"], own["precision"]
        self._drift_pending, self._drifted = own["drift_pending"], own["drifted"]
        self._quick_updates, self._rate.value = own["quick_updates"], own["rate"]
        self._outcomes.extend(own["outcomes"])
        self._movement.load(tensors["movement"])
        unlabelled = torch.full((len(tensors["arrived"]),), -1)
        self._arrived.restore(Images(tensors["arrived"], unlabelled), own["arrived"])
        self._trials = own["trials"]
        self._numbers.extend(own["numbers"])
        self.reading, self.behind = own["reading"], own["behind"]
        redo = self._decided_since(own["moves"])
        if redo is None or own["strategy"] != self._kind():  # another version: its lineage has just begun
            self._begin_trial()
        else:
            try:
                began, champion = load(self.registry, own["began"]), load(self.registry, own["champion"])
            except RegistryError:  # no longer there: likewise
                self._begin_trial()
            else:
                self._resume(own, tensors, redo, began, champion)
        self._generator.set_state(tensors["generator"])  # last, as to begin a lineage may have drawn from it

    def _resume(
        self,
        own: dict[str, Any],
        tensors: Mapping[str, torch.Tensor],
        redo: list[Move],
        began: LoadedModel,
        champion: LoadedModel,
    ) -> None:
        """Go on with the lineage of the checkpoint, and with the version that was the champion then."""
        self._start_from(began, own["generation"])
        self._champion = champion
        self._judged = self._measured(self._champion.predictor())
        self._trials, self._redo = own["trials"], redo
        self._champion_at = own["champion_at"]
        self._monitor.load(tensors["errors"])
        by_class = [tensors[f"errors/{label}"] for label in range(len(self.classes))]
        self._by_class.load(by_class, own["class_numbers"])
        self._confidence.load(tensors["confidence"])
        self._lineage.load(_within("lineage/", tensors), own["lineage"])
        if own["snapshot"] is not None:
            model = models.build(own["snapshot"]["architecture"], own["snapshot"]["arguments"])
            model.load_state_dict(_within("snapshot/", tensors))
            self._snapshot = Snapshot(own["snapshot"]["architecture"], own["snapshot"]["arguments"], model.eval())
            self._challenger = self._measured(Predictor(model, *self._normalisation))
        self._pairs, self._following = Pairs(*own["pairs"]), own["following"]
        if own["watch"] is not None:
            previous, on, pairs = own["watch"]
            with suppress(RegistryError):  # no longer there: nothing to go back to
                judged = self._measured(load(self.registry, previous).predictor())
                self._watch = _Watch(previous, judged, self._watch_alpha, on, Pairs(*pairs))

    def _decided_since(self, moves: int) -> list[Move] | None:
        """What a learner has decided after the first so many moves; None where anybody else has moved the alias."""
        found = self.registry.history(self.alias)[moves:]
        return None if any(move.at is None for move in found) else found

    # --- what is judged and learned from

    @property
    def _every(self) -> int:
        """Labelled images between two updates: fewer after a drift, more in long calm or when it falls behind."""
        every = self.settings.update_every * (BEHIND if self.behind else 1)
        if self._quick_updates:
            return max(1, every // 2)
        return every * 2 if self._present > CALM_AFTER else every

    def _newest(self, count: int) -> Images:
        """The newest images to be trained on since the last drift, at most `count`."""
        held_out_share = 1 - 1 / self.settings.holdout_every
        return self.buffer.recent.newest(min(count, int(self._present * held_out_share)))

    def _window(self) -> Images:
        """The newest images of the present concept, labelled or not; their labels are not told."""
        return self._arrived.newest(min(ARRIVED, self.seen - self._concept_at))

    @property
    def _unlabelled(self) -> bool:
        """Whether too few of the newest images have labels for errors to tell of a drift."""
        return sum(number >= self.seen - ARRIVED for number in self._numbers) < FEWEST_AFTER_DRIFT

    @property
    def _scarce(self) -> bool:
        """Whether too few images of the present concept have labels to judge by."""
        return self._present < FEWEST_AFTER_DRIFT and self._lineage.unlabelled

    def _held_out(self) -> Images:
        """The newest held-out images of the present concept."""
        every = self.settings.holdout_every
        present = self.buffer.labelled // every - (self.buffer.labelled - self._present) // every
        return self.buffer.holdout.newest(min(HELD_OUT, present))

    def _lesson(self) -> Lesson:
        settings, normalisation = self.settings, self._champion.manifest.normalisation
        self._precision = self._precision or choose_precision(
            "auto", self._champion.model, torch.device("cpu"), settings.batch_size, train=True
        )
        return Lesson(
            recent=self._newest(settings.buffer_size),
            new=self.buffer.recent.newest(self.buffer.recent.added - self._taught),
            reservoir=self.buffer.reservoir.images(),
            reference=self._reference,
            arrived=self._window().pixels,
            apart=self._apart,
            drifted=self._drifted,
            scarce=self._scarce,
            mean=normalisation.mean,
            std=normalisation.std,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=self._rate.value,
            precision=self._precision,
            generator=self._generator,
            on_step=self._on_step,
        )

    def _changed(self, predictor: Predictor) -> float:
        """Share of the newest images that the predictor answers otherwise than the champion."""
        newest = self._arrived.newest(ARRIVED).pixels
        if not len(newest):
            return 1.0
        return float((predictor(newest).argmax(dim=1) != self._judged.predictor(newest).argmax(dim=1)).float().mean())

    def _likely(self, challenger: _Judged) -> Pairs:
        """How champion and challenger are likely to do on the newest images, whose labels are not known."""
        window, (mean, std) = self._window().pixels, self._normalisation
        known = self._validation.take(torch.arange(min(len(self._validation), ESTIMATED)))
        if len(window) < FEWEST or not len(known):
            return Pairs()
        reference = sample(self._reference, STATISTICS, self._generator).pixels
        look = Lookalike(normalise(reference, mean, std), normalise(window, mean, std))
        shown = look(normalise(known.pixels, mean, std), self._generator)
        champion, other = (
            judged.likely(window, shown, known.labels, follows=learned_at > self._concept_at)
            for judged, learned_at in ((self._judged, self._champion_at), (challenger, self._updated_arrived))
        )
        return Pairs.of(champion, other)

    def _measured(self, predictor: Predictor) -> _Judged:
        return _Judged(predictor, self._validation, len(self.classes))


def start_of(version: LoadedModel, generator: torch.Generator, settings: OnlineSettings) -> Start:
    """What a lineage that goes on from `version` begins with."""
    manifest = version.manifest
    return Start(
        Snapshot(manifest.model, manifest.arguments, version.model),
        manifest.normalisation.mean,
        manifest.normalisation.std,
        len(manifest.classes),
        generator,
        settings.follow_relabelling,
    )


def _errors(detection: Detection) -> tuple[float, float]:
    return detection.error_before, detection.error_after


def _correct(predictor: Predictor, images: Images) -> NDArray[np.bool_]:
    """Which images (N,) the predictor gets right."""
    if not len(images):
        return np.empty(0, dtype=np.bool_)
    right: NDArray[np.bool_] = (predictor(images.pixels).argmax(dim=1) == images.labels).numpy()
    return right


def _within(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
