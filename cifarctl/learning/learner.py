"""The learner without a broker: labelled images in, a lineage of challengers through the gate, events out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events, models
from cifarctl.data import Images
from cifarctl.errors import AliasConflict, DataError, IntegrityError, ModelTooLarge, RegistryError
from cifarctl.learning.canary_alias import CanaryAlias
from cifarctl.learning.decisions import Decisions
from cifarctl.learning.scored_model import ScoredModel
from cifarctl.learning.state import LearnerState, Progress, Standing, WatchState
from cifarctl.models.predictor import Precision, Predictor, choose_precision
from cifarctl.models.preprocess import Channels, normalise
from cifarctl.online import prior
from cifarctl.online.buffer import ReplayBuffer, Ring
from cifarctl.online.concept import ARRIVED, FEWEST_LABELLED, Concept, Sign
from cifarctl.online.fit import Lesson, sample
from cifarctl.online.gate import Decision, Guard, Pairs, decide, follow, spend
from cifarctl.online.inputs import FEWEST, WINDOW, InputMonitor
from cifarctl.online.judgeable import require_judgeable
from cifarctl.online.lookalike import Appearance, Lookalike
from cifarctl.online.rate import AdaptiveRate
from cifarctl.online.strategies import Snapshot, Start, Strategy, strategy
from cifarctl.registry import Manifest, Registry, checkpoint
from cifarctl.registry.claims import Stream
from cifarctl.registry.files import os_errors
from cifarctl.registry.history import Action, Move
from cifarctl.registry.loading import LoadedModel, canary, load, require_trusted
from cifarctl.registry.publishing import publish_like
from cifarctl.settings import OnlineSettings

JUDGED = 500  # recent labelled images by which it is judged whether inputs or class frequencies have moved
ESTIMATED = 300  # validation images that estimates without labels rest on
STATISTICS = 1000  # training images that these are made to look like the stream by
APART = 300  # others, by which a lineage may judge itself
WATCH_SHARE = 0.1  # of `online.gate_alpha`: to go back for no reason costs what has been learned
STARVED = 0.01  # evidence below which a trial begins anew, rather than make up for what a lineage once was
TIDY_EVERY = 10  # versions after which those that a learner has made and nobody needs are removed
COMPARED = 125  # newest images, one batch, by which it is told whether a snapshot answers otherwise
HELD_OUT = 25  # newest held-out images that a snapshot must not fall on: more of them may be of an older concept
GRID = 25  # labelled images between two looks at what is due, however they come in
QUICK_UPDATES = 4  # after a drift so many updates come twice as often, without labels four times
CALM_AFTER = 500  # images of a concept (labelled, where labels are learned from): then updates are half as often
CHECKPOINT = "checkpoint.safetensors"


@dataclass(kw_only=True)
class _Watch(WatchState):
    """The champion before a lineage's promotion goes on predicting."""

    judged: ScoredModel
    alpha: float  # that one window may spend


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
        stream: Stream | None = None,
        afresh: bool = False,
        canary: bool = False,
        commit: Callable[[Move], None] = lambda _: None,
        on_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the champion and, unless it is to begin `afresh`, the last checkpoint.

        `epoch` is that of its tenure: see `learning.leadership`; `stream` is what it learns from, whose checkpoint it
        has. With `canary` the snapshot on trial is published, for `serve` to let it answer a share of the stream.
        `commit` makes a decision known before it is carried out, and `on_step` is called with every step of training;
        either may raise.

        Raises:
            VersionNotFound: there is no champion to learn from.
            DataError: it has been trained on what it would be judged by.
        """
        self._champion: LoadedModel  # what `_start_from` sets
        self._judged: ScoredModel  # the champion
        self._base_version: int
        self._base: ScoredModel  # the version that no learner has made, from which all the learner's come
        self._lineage: Strategy
        self._standing: Standing
        self.registry, self.settings, self.alias = registry, settings, alias
        self._reference = reference
        judging = min(len(validation), settings.validation_size)
        self._validation = validation.take(torch.arange(judging))
        self._apart = validation.take(torch.arange(judging, min(len(validation), judging + APART)))
        self._canary = CanaryAlias(registry, alias, wanted=canary, epoch=epoch)
        self._on_step, self._clock = on_step, clock
        self._begin = strategy(settings.strategy)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._epoch, self._stream = epoch, stream
        self.decisions = Decisions(registry, alias, epoch, commit)
        self._inputs = InputMonitor(validation)
        self._rate = AdaptiveRate(settings.learning_rate, settings.learning_rate_min, settings.learning_rate_max)
        self._arrived = Ring(ARRIVED)
        self._progress = Progress()
        self._clock_updated = clock()
        self.updates = 0  # made by this process
        self._watch: _Watch | None = None
        self._challenger: ScoredModel | None = None
        self._snapshot: Snapshot | None = None  # of the challenger
        self._refused = 0  # generation of an alias move that could not be followed
        version = load(registry, self.decisions.version)
        require_judgeable(version.manifest, settings)
        self.concept = Concept(settings.detector, version.manifest.classes, settings.seed)
        self._start_from(version, self.decisions.made)
        self.buffer = ReplayBuffer(
            settings.buffer_size,
            len(self.classes),
            holdout_size=settings.holdout_size,
            holdout_every=settings.holdout_every,
            generator=self._generator,
        )
        if not afresh:
            self._restore()
        on_trial = None if self._standing.following or self.decisions.redoing else self._snapshot
        self._canary.take_over(on_trial.model if on_trial else None, self.champion)

    def close(self) -> None:
        """Let nobody be answered by what is on trial any more."""
        with suppress(RegistryError):
            self._canary.withdraw("the learner has ended")

    @property
    def reading(self) -> Mapping[str, Any]:
        """Of the checkpoint that it has taken over, as `save` was given it."""
        return self._progress.reading

    @property
    def behind(self) -> bool:
        """Whether messages have come long ago that are yet to be read: updates wait for them."""
        return self._progress.behind

    def fall_behind(self, behind: bool) -> None:
        """Let updates wait, or no longer: see `behind`."""
        self._progress.behind = behind

    @property
    def folder(self) -> Path:
        """Where learners keep their checkpoints."""
        return self.registry.dir / "learner"

    @property
    def checkpoint(self) -> Path:
        """Where this learner keeps its state, apart from learners of other streams."""
        return self.folder / (CHECKPOINT if self._stream is None else self._stream.checkpoint)

    @property
    def champion(self) -> int:
        """The version that is to be beaten."""
        return self._champion.manifest.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the champion knows."""
        return self._champion.manifest.classes

    @property
    def manifest(self) -> Manifest:
        """That of the champion."""
        return self._champion.manifest

    @property
    def fresh(self) -> int:
        """Labelled examples since the last update."""
        return self.buffer.labelled - self._progress.updated_at

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
        learn from that. Without `updates` the caller decides.
        """
        while len(pixels):
            now, pixels = pixels[: (size := GRID - self.seen % GRID)], pixels[size:]
            yield from self._look(self._add(now), updates)

    def _add(self, pixels: torch.Tensor) -> Sign | None:
        """Take in images that do not reach beyond the next look; what they say of the concept."""
        for image in pixels:
            self._arrived.add(image, -1)
        return self.concept.images(
            pixels, self.seen, lambda images: self._judged.predictor(images).amax(dim=1, keepdim=True)
        )

    def _look(self, sign: Sign | None, updates: bool) -> Iterator[events.LearnEvent]:
        """What is due with the newest images."""
        if sign is not None and sign.began > self.concept.began + GRID:  # else the errors have told already
            yield from self._notice_drift(sign, self.seen)
        if updates and self.seen % GRID == 0 and (trigger := self._due_unlabelled()) is not None:
            yield from self.update(trigger)

    def learn(
        self, ids: Sequence[str], images: Images, *, numbers: Sequence[int] | None = None, updates: bool = True
    ) -> Iterator[events.LearnEvent]:
        """Test, then remember, then train: labelled images, and the decisions and updates that they make due.

        What is due is looked at after every 25th labelled image, so that decisions do not depend on how the images are
        cut into calls. `images.labels` (N,) must all be classes of the champion; repeated ids count once. `numbers`:
        what `seen` was when each of them arrived; without them the images arrive now. Without `updates` the caller
        decides.
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
                sign = self._add(part.pixels)
                yield from self._observe(named, part, range(first, self.seen), late=False)
                yield from self._look(sign, updates)
            else:
                yield from self._observe(named, part, [numbers[place] for place in now], late=True)
            if self.buffer.labelled % GRID == 0:
                yield from self._judge()
                if updates and (trigger := self.due()) is not None:
                    yield from self.update(trigger)

    def due(self) -> str | None:
        """What calls for an update now, if labels do."""
        settings, fresh = self.settings, self.fresh
        if self._progress.behind or self.buffer.labelled < min(settings.min_examples, settings.buffer_size):
            return None
        if self._progress.drift_pending and self.concept.labelled >= FEWEST_LABELLED:
            return "drift"
        if fresh >= self._every(self.concept.labelled):
            return f"{fresh} labelled images"
        waited = self._clock() - self._clock_updated
        if fresh >= FEWEST_LABELLED and waited >= settings.update_interval:
            return f"{waited:.0f} s"
        return None

    def _due_unlabelled(self) -> str | None:
        """What calls for an update although there are next to no labels, if anything does."""
        fresh = self.seen - max(self._progress.updated_arrived, self.concept.began)
        every = self._every(self.seen - self.concept.began)
        if (
            self._progress.behind
            or not self._lineage.unlabelled
            or min(self.fresh, self.concept.labelled) >= FEWEST_LABELLED
            or fresh < (max(FEWEST, every // 2) if self._progress.quick_updates else every)
            or not (self._progress.quick_updates or self._inputs.moved(self._window()))
        ):
            return None
        return f"{fresh} images"

    def catch_up(self) -> Iterator[events.LearnEvent]:
        """Make the update, if any, that has become due while updates waited."""
        if (trigger := self.due() or self._due_unlabelled()) is not None:
            yield from self.update(trigger)

    def update(self, trigger: str) -> Iterator[events.LearnEvent]:
        """Let the lineage learn; its new snapshot goes on trial, or follows the one that serves.

        Ends with a RetrainResult, and a RateChanged where the learning rate falls.
        """
        began = time.perf_counter()
        fresh, lesson = self.fresh, self._lesson()
        yield events.RetrainStarted(fresh, trigger, self.settings.strategy, self._rate.value)
        snapshot = self._lineage.propose(lesson)
        # Only now: an update that is interrupted while it trains is due again.
        self._progress.updated_at, self._progress.updated_arrived = self.buffer.labelled, self.seen
        self._clock_updated = self._clock()
        self._progress.taught = self.buffer.recent.added
        self.updates += 1
        self._progress.drift_pending = self._progress.drifted = False
        self._progress.quick_updates = max(0, self._progress.quick_updates - 1)
        if not self._sound(snapshot):
            decision = Decision(False, ("values that are not finite: the lineage begins anew",))
            yield self._settle(decision, Pairs(), Guard.none(), fresh, time.perf_counter() - began)
            return
        decision, pairs, guard = self._decide(self._put_forward(snapshot))
        yield self._settle(decision, pairs, guard, fresh, time.perf_counter() - began)
        self._show(guard)
        before = self._rate.value
        if not self._progress.quick_updates and self._rate.calm():
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
        self.decisions.give_up(before=self._now)
        if (moved := self.decisions.look()) is None:
            return
        (version, generation), old = moved, self.champion
        try:
            require_judgeable(self.registry.manifest(version), self.settings)  # before a large file is read for nothing
            loaded = load(self.registry, version)
            if loaded.manifest.classes != self.classes:
                raise IntegrityError(f"version {version} has other classes")
        except (RegistryError, DataError) as error:
            if self._refused != generation:
                self._refused = generation
                self._canary.withdraw(f"{self.decisions.mover} has moved the alias")
                yield events.Notice(f"the learner stays with version {old} and promotes nothing: {error}")
            return
        self.decisions.generation = self.decisions.made = generation
        if version == old:
            return
        self._start_from(loaded, generation)
        yield events.ChampionChanged(old, version)

    def status(self) -> events.LearnerStatus:
        """Where the learner stands."""
        return events.LearnerStatus(
            labelled=self.buffer.labelled,
            size=len(self.buffer),
            capacity=self.buffer.capacity,
            holdout=len(self.buffer.holdout),
            class_counts=self.buffer.class_counts(),
            accuracy=sum(self.concept.outcomes) / len(self.concept.outcomes) if self.concept.outcomes else None,
            learning_rate=self._rate.value,
            drift="drift" if self._progress.drift_pending or self._progress.quick_updates else "calm",
            until_update=max(0, self._every(self.concept.labelled) - self.fresh),
            shadow=self._shadow(),
        )

    def _shadow(self) -> events.Shadow | None:
        if not self._standing.following and self._challenger is not None:
            version, pairs, alpha = None, self._standing.pairs, self._alpha
        elif self._watching is not None:
            version, pairs, alpha = self._watching.previous, self._watching.pairs, self._watching.alpha
        else:
            return None
        return events.Shadow(version, len(pairs), pairs.challenger, pairs.champion, pairs.evidence, 1 / alpha)

    # --- observing

    def _observe(
        self, ids: Sequence[str], images: Images, numbers: Sequence[int], *, late: bool
    ) -> Iterator[events.LearnEvent]:
        """Let everybody predict, then remember, image by image, so that it does not matter how they come in.

        Images from before the present concept began are remembered, but say nothing of it. `late`: they have
        been seen before, and only their labels come now.
        """
        champion = self._judged.right(images)
        on_trial = self._challenger is not None and not self._standing.following
        challenger = self._challenger.right(images) if self._challenger and on_trial else champion
        before: NDArray[np.bool_] | None = None  # of the version before: a drift may begin its watch at any image
        present = [place for place, number in enumerate(numbers) if number >= self.concept.began]
        if present:
            self._lineage.observe(images.take(torch.tensor(present)))
        for place, (image_id, pixels, label) in enumerate(zip(ids, images.pixels, images.labels.tolist(), strict=True)):
            self.buffer.add(image_id, pixels, label)
            if numbers[place] < self.concept.began:
                continue
            one = slice(place, place + 1)
            if on_trial:
                self._standing.pairs += Pairs.of(champion[one], challenger[one])
            if (watch := self._watching) is not None:
                before = watch.judged.right(images) if before is None else before
                watch.pairs += Pairs.of(champion[one], before[one])
            if (sign := self.concept.outcome(label, numbers[place], bool(champion[place]))) is not None:
                yield from self._notice_drift(sign, self.seen if late else numbers[place] + 1)

    def _judge(self) -> Iterator[events.LearnEvent]:
        """Promote a challenger that has won its trial; go back where the champion before does better."""
        watch = self._watching
        if watch is not None and watch.pairs.evidence >= 1 / watch.alpha:
            yield from self._roll_back(watch)
        elif watch is not None and len(watch.pairs) >= self.settings.watch:
            watch.on = False
        self.decisions.give_up(before=self._now)
        if not self._standing.following and self._standing.pairs.evidence < STARVED:
            self._begin_trial()
        revised = self._lineage.revise()
        if revised is not None and not self._sound(revised):
            revised = None
        if revised is not None:
            self._put_forward(revised)
        if self._challenger is None or not (
            revised if self._standing.following else self._standing.pairs.evidence >= 1 / self._alpha
        ):
            if revised is not None:
                self._show()
            return
        decision, pairs, guard = self._decide(self._challenger)
        if decision.promote:
            yield self._settle(decision, pairs, guard, self.fresh, 0.0)
        elif not self._standing.following and len(self._standing.pairs) >= WINDOW:
            # Unsound, and by now a drift of the inputs would have been noticed: what was won is no credit for later.
            yield self._settle(decision, pairs, guard, self.fresh, 0.0)
            self._begin_trial()
        else:
            self._show(guard)

    def _notice_drift(self, sign: Sign, at: int) -> Iterator[events.LearnEvent]:
        before, after = sign.errors or self.concept.error_rates(sign.began)
        another = self.concept.renew(sign)
        self._progress.drifted = self._progress.drifted or another
        self._progress.drift_pending = True
        self._progress.quick_updates = QUICK_UPDATES
        self._watch_on()
        if not self._standing.following and another:  # what came before says little of what is to come
            self._begin_trial()
        yield events.DriftDetected(
            at=at,
            detector=sign.detector,
            since=at - sign.began,
            error_before=before,
            error_after=after,
        )
        rate = self._rate.value
        if self._rate.drift():
            yield events.RateChanged(rate, self._rate.value, "drift")

    # --- deciding

    def _begin_trial(self) -> None:
        self._progress.trials += 1
        self._standing.pairs = Pairs()
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
        return spend(self.settings.gate_alpha, self._progress.trials)

    def _sound(self, snapshot: Snapshot) -> bool:
        """Whether parameters and answers are finite; where they are not the lineage begins anew."""
        try:
            canary(snapshot.model, self._champion.manifest.normalisation)
            sound = all(bool(tensor.isfinite().all()) for tensor in snapshot.model.state_dict().values())
        except IntegrityError:
            sound = False
        if not sound:
            self._lineage, self._standing.began = self._lineage_of(self._champion), self.champion
        return sound

    def _put_forward(self, snapshot: Snapshot) -> ScoredModel:
        """Make `snapshot` the challenger."""
        self._challenger, self._snapshot = self._measured(Predictor(snapshot.model, *self._normalisation)), snapshot
        return self._challenger

    def _decide(self, challenger: ScoredModel) -> tuple[Decision, Pairs, Guard]:
        """What the trial says of the challenger so far, or whether it may follow, with the figures of that."""
        guard = self._guard(challenger)
        scarce = self._scarce
        if not self._standing.following:
            pairs = self._likely(challenger) if scarce else self._standing.pairs
            return decide(pairs, guard, alpha=self._alpha, estimated=scarce), pairs, guard
        held_out = self._held_out()
        pairs = Pairs.of(self._judged.right(held_out), challenger.right(held_out))
        if scarce:
            pairs = self._likely(challenger)
        changed = challenger.differs(self._judged, self._arrived.newest(COMPARED).pixels, self._arithmetic)
        return follow(pairs, guard, changed=changed, alpha=self.settings.gate_alpha, estimated=scarce), pairs, guard

    @property
    def _normalisation(self) -> tuple[Channels, Channels]:
        normalisation = self._champion.manifest.normalisation
        return normalisation.mean, normalisation.std

    def _guard(self, challenger: ScoredModel) -> Guard:
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
        update = self._standing.following
        try:
            if decision.promote:
                version = self._promote(reasons, pairs, guard)
            elif self.decisions.again("reject", self._now) is None:
                self._carry_out("reject", champion, "; ".join(reasons))
        except (AliasConflict, ModelTooLarge) as error:
            reasons.append(f"{'not promoted' if decision.promote else 'not recorded'}: {error}")
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
            update=update,
        )

    def _promote(self, reasons: Sequence[str], pairs: Pairs, guard: Guard) -> int:
        """Publish the newest snapshot and let it serve, unless that was done before a crash; the version.

        Raises:
            AliasConflict: somebody else has moved the alias.
            ModelTooLarge: it could not be loaded.
        """
        assert self._challenger is not None
        previous, judged = self.champion, self._judged
        if (move := self.decisions.again("promote", self._now)) is not None:
            assert move.to_version is not None
            version, self.decisions.made = move.to_version, move.generation
        else:
            if not self.decisions.unmoved:  # before there is a version for nothing
                raise AliasConflict(f"{self.decisions.mover} has moved the alias {self.alias}")
            version = self._published(pairs, guard)
            self._carry_out("promote", version, "; ".join(reasons))
            self.decisions.made = self.decisions.generation
        self._canary.withdraw(f"version {version} is promoted")
        self._champion = load(self.registry, version)
        # What has just been promoted is the challenger, bit by bit, and has been measured.
        self._judged = self._challenger if move is None else self._measured(self._champion.predictor())
        self._standing.champion_at = self._progress.updated_arrived
        self.concept.another_champion()
        if not self._standing.following:
            self._standing.following = True
            self.concept.another_lineage()
            self._watch = (
                _Watch(previous=previous, judged=judged, alpha=self._watch_alpha) if self.settings.watch else None
            )
        else:
            self._watch_on()
        return version

    def _carry_out(self, action: Action, version: int, why: str) -> None:
        self.decisions.carry_out(action, version, why, champion=self.champion, now=self._now)

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
        decisions = self.decisions
        if not self._canary.wanted or self._challenger is None or self._standing.following:
            return
        if decisions.redoing or not decisions.unmoved:
            return
        guard = guard or self._guard(self._challenger)
        if not guard.holds:
            self._canary.withdraw(str(guard))
            return
        try:
            version = self._published(self._standing.pairs, guard)
        except ModelTooLarge as error:
            self._canary.withdraw(str(error))
            return
        self._canary.show(version, f"on trial against version {self.champion}: {guard}")

    def _roll_back(self, watch: _Watch) -> Iterator[events.LearnEvent]:
        old, pairs = self.champion, watch.pairs
        reason = (
            f"of {len(pairs):,} labelled images version {watch.previous} alone gets {pairs.gained} right, version "
            f"{old} alone {pairs.lost}"
        )
        try:
            if (move := self.decisions.again("rollback", self._now)) is not None:
                generation = move.generation
            else:
                self._carry_out("rollback", watch.previous, reason)
                generation = self.decisions.generation
            restored = load(self.registry, watch.previous)
        except RegistryError as error:  # moved by somebody else, which follow_alias takes over, or no longer there
            self._watch = None
            yield events.Notice(f"version {watch.previous} performs better, but rolling back failed: {error}")
            return
        self._go_back_to(restored, generation)
        yield events.RolledBack(old, watch.previous, reason)

    # --- beginning, remembering

    def _start_from(self, champion: LoadedModel, generation: int) -> None:
        """Begin a lineage from `champion`, the version to be beaten as of that move of the alias."""
        self._champion, self._standing = champion, Standing(champion.manifest.version)
        self.decisions.made = generation
        self._judged = self._measured(champion.predictor())
        base = self._first(champion)
        self._base_version = base.manifest.version
        self._base = self._judged if base is champion else self._measured(base.predictor())
        self._lineage = self._lineage_of(champion)
        self._put_on_trial()

    def _go_back_to(self, champion: LoadedModel, generation: int) -> None:
        """Let the version before serve again; a lineage that began with it keeps what it knows of other concepts."""
        if champion.manifest.version != self._standing.began:
            self._start_from(champion, generation)
            return
        self._lineage.step_back()
        self._champion, self._judged = champion, self._measured(champion.predictor())
        self.decisions.made = generation
        self._put_on_trial()

    def _put_on_trial(self) -> None:
        """Let the lineage follow no longer: none of its snapshots serves before another trial is won."""
        self._challenger = self._snapshot = self._watch = None
        self._standing = Standing(self._standing.began)
        self.concept.another_lineage()
        self._begin_trial()

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
        detectors, concept = self.concept.dump()
        tensors |= {f"concept/{name}": tensor for name, tensor in detectors.items()}
        if self._snapshot is not None:
            tensors |= {f"snapshot/{name}": tensor for name, tensor in self._snapshot.model.state_dict().items()}
        self._progress.reading = dict(reading or {})
        own = self._state(concept, lineage).to_json()
        state = {"of": self._identity(), "buffer": state, "learner": own}
        if self._stream is not None:
            state["stream"] = self._stream.to_json()
        allowed = nullcontext() if self._epoch is None else self.registry.in_epoch(self._epoch, alias=self.alias)
        checkpoint.save(self.checkpoint, tensors, state, allowed)

    def _state(self, concept: dict[str, Any], lineage: dict[str, Any]) -> LearnerState:
        """As it stands, with what the concept and the lineage say of themselves."""
        watch, shown = self._watch, None
        if self._snapshot is not None:
            shown = {"architecture": self._snapshot.architecture, "arguments": self._snapshot.arguments}
        return LearnerState(
            strategy=self._kind(),
            champion=self.champion,
            generation=self.decisions.made,
            moves=self.decisions.known,
            arrived=self._arrived.added,
            rate=self._rate.value,
            concept=concept,
            lineage=lineage,
            snapshot=shown,
            watch=None if watch is None else WatchState(watch.previous, watch.on, watch.pairs),
            progress=self._progress,
            standing=self._standing,
        )

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the learner that takes it over."""
        settings, manifest = self.settings, self._champion.manifest
        return {
            "format": 5,
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
        found = checkpoint.load(self.checkpoint) or self._unclaimed()
        if found is None or found[1].get("of") != self._identity():  # other images, classes or sizes: begin afresh
            return
        if Stream.of_json(found[1].get("stream")) not in {None, self._stream}:  # a copy of another's
            return
        tensors, state = found
        own = LearnerState.of_json(state["learner"])
        self.buffer.load(tensors, state["buffer"])
        self.concept.load(_within("concept/", tensors), own.concept)
        self._progress, self._rate.value = replace(own.progress), own.rate
        unlabelled = torch.full((len(tensors["arrived"]),), -1)
        self._arrived.restore(Images(tensors["arrived"], unlabelled), own.arrived)
        redo = self.decisions.since(own.moves)
        if redo is None or own.strategy != self._kind():  # another version: its lineage has just begun
            self._begin_trial()
        else:
            try:
                began, champion = load(self.registry, own.standing.began), load(self.registry, own.champion)
            except RegistryError:  # no longer there: likewise
                self._begin_trial()
            else:
                self._resume(own, tensors, redo, began, champion)
        self._generator.set_state(tensors["generator"])  # last, as to begin a lineage may have drawn from it

    def _unclaimed(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """A checkpoint from before each stream had its own: it is that of the first one that moves the same alias."""
        before = self.folder / CHECKPOINT
        if self._stream is None or (found := checkpoint.load(before)) is None:
            return None
        alias, *_ = found[1]["learner"]["strategy"]
        if alias != self.alias:
            return None
        with os_errors(before):
            before.replace(self.checkpoint)
        return found

    def _resume(
        self,
        own: LearnerState,
        tensors: Mapping[str, torch.Tensor],
        redo: list[Move],
        began: LoadedModel,
        champion: LoadedModel,
    ) -> None:
        """Go on with the lineage of the checkpoint, and with the version that was the champion then."""
        self._start_from(began, own.generation)
        self._champion = champion
        self._judged = self._measured(self._champion.predictor())
        self._progress, self._standing = own.progress, own.standing
        self.decisions.redo(redo)
        self.concept.load_champion(_within("concept/", tensors), own.concept)
        self._lineage.load(_within("lineage/", tensors), own.lineage)
        if own.snapshot is not None:
            architecture, arguments = own.snapshot["architecture"], own.snapshot["arguments"]
            require_trusted(self.registry, architecture, arguments)
            model = models.build(architecture, arguments)
            model.load_state_dict(_within("snapshot/", tensors))
            self._snapshot = Snapshot(architecture, arguments, model.eval())
            self._challenger = self._measured(Predictor(model, *self._normalisation))
        if own.watch is not None:
            with suppress(RegistryError):  # no longer there: nothing to go back to
                judged = self._measured(load(self.registry, own.watch.previous).predictor())
                self._watch = _Watch(**vars(own.watch), judged=judged, alpha=self._watch_alpha)

    # --- what is judged and learned from

    def _every(self, present: int) -> int:
        """Images between two updates when so many are `present` of the concept: fewer after a drift, more in calm."""
        every = self.settings.update_every
        if self._progress.quick_updates:
            return max(1, every // 2)
        return every * 2 if present > CALM_AFTER else every

    def _newest(self, count: int) -> Images:
        """The newest images to be trained on since the last drift, at most `count`."""
        held_out_share = 1 - 1 / self.settings.holdout_every
        return self.buffer.recent.newest(min(count, int(self.concept.labelled * held_out_share)))

    def _window(self) -> Images:
        """The newest images of the present concept, labelled or not; their labels are not told."""
        return self._arrived.newest(min(ARRIVED, self.seen - self.concept.began))

    @property
    def _scarce(self) -> bool:
        """Whether too few images of the present concept have labels to judge by."""
        return self.concept.labelled < FEWEST_LABELLED and self._lineage.unlabelled

    def _held_out(self) -> Images:
        """The newest held-out images of the present concept."""
        every = self.settings.holdout_every
        present = self.buffer.labelled // every - (self.buffer.labelled - self.concept.labelled) // every
        return self.buffer.holdout.newest(min(HELD_OUT, present))

    @property
    def _arithmetic(self) -> Precision:
        """What updates and estimates compute in; what is counted, of labelled images, is predicted in float32."""
        self._progress.precision = self._progress.precision or choose_precision(
            "auto", self._champion.model, torch.device("cpu"), self.settings.batch_size, train=True
        )
        return self._progress.precision

    def _lesson(self) -> Lesson:
        settings, normalisation = self.settings, self._champion.manifest.normalisation
        window = self._window()
        return Lesson(
            recent=self._newest(settings.buffer_size),
            new=self.buffer.recent.newest(self.buffer.recent.added - self._progress.taught),
            reservoir=self.buffer.reservoir.images(),
            reference=self._reference,
            arrived=window.pixels,
            apart=self._apart,
            drifted=self._progress.drifted,
            moved=self._inputs.moved(window),
            scarce=self._scarce,
            mean=normalisation.mean,
            std=normalisation.std,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=self._rate.value,
            precision=self._arithmetic,
            generator=self._generator,
            on_step=self._on_step,
        )

    def _likely(self, challenger: ScoredModel) -> Pairs:
        """How champion and challenger are likely to do on the newest images, whose labels are not known."""
        window, (mean, std) = self._window().pixels, self._normalisation
        known = self._validation.take(torch.arange(min(len(self._validation), ESTIMATED)))
        if len(window) < FEWEST or not len(known):
            return Pairs()
        reference = sample(self._reference, STATISTICS, self._generator).pixels
        usual, present = (Appearance.of(normalise(pixels, mean, std)) for pixels in (reference, window))
        look = Lookalike(usual, present)
        shown = look(normalise(known.pixels, mean, std), self._generator)
        champion, other = (
            judged.likely(window, shown, known.labels, self._arithmetic, follows=learned_at > self.concept.began)
            for judged, learned_at in (
                (self._judged, self._standing.champion_at),
                (challenger, self._progress.updated_arrived),
            )
        )
        return Pairs.of(champion, other)

    def _measured(self, predictor: Predictor) -> ScoredModel:
        return ScoredModel(predictor, self._validation, len(self.classes))


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


def _within(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
