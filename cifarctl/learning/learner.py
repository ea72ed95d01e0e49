"""The learner without a broker: labelled images in, a lineage of challengers through the gate, events out.

A labelled image's way, from the stream to the champion; `learning.examples` brings it here:

1. It arrives: `see`, `PrequentialTest.arrive`. The input detectors look at it (`ObservedStream`).
2. Its label comes: `learn`. Champion and challenger predict it before anything learns from it
   (`PrequentialTest.observe`).
3. It goes into the replay buffer; the outcome goes to trial, watch and drift detectors (`PrequentialTest.observe`).
4. After every 25th labelled image the models are judged (`PrequentialTest.judge`): a challenger that has won its
   trial is promoted, a champion that does worse than the version before is rolled back (`Succession`).
5. When an update is due (`UpdateSchedule`), the strategy learns from a `LessonPlan`'s lesson: `update`. Its new
   snapshot is the challenger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from cifarctl import events
from cifarctl.data import Images
from cifarctl.errors import RegistryError
from cifarctl.learning import report
from cifarctl.learning.canary_alias import CanaryAlias
from cifarctl.learning.checkpoints import LearnerCheckpoint
from cifarctl.learning.decisions import Decisions
from cifarctl.learning.lesson import LessonPlan
from cifarctl.learning.lineage import Lineage
from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.prequential import PrequentialTest
from cifarctl.learning.promotion import Promotion
from cifarctl.learning.schedule import UpdateSchedule
from cifarctl.learning.state import LearnerState, Progress
from cifarctl.learning.succession import Succession
from cifarctl.learning.trial import Trial, Verdict
from cifarctl.online.buffer import ReplayBuffer
from cifarctl.online.concept import DriftSignal
from cifarctl.online.gate import Decision, Guard, Pairs
from cifarctl.online.judgeable import require_judgeable
from cifarctl.online.rate import AdaptiveRate
from cifarctl.registry import Registry
from cifarctl.registry.claims import Stream
from cifarctl.registry.history import Move
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings

APART = 300  # validation images beyond `online.validation_size`, by which a lineage may judge itself
GRID = 25  # images between two checks for due work, however they are batched


class Learner:
    """The active learner of a registry.

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
        epoch: int | None = None,
        stream: Stream | None = None,
        afresh: bool = False,
        canary: bool = False,
        commit: Callable[[Move], None] = lambda _: None,
        on_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the champion and, unless it is to begin `afresh`, the last checkpoint.

        `epoch` is its leader epoch: see `learning.leadership`; `stream` is what it learns from, whose checkpoint it
        has. With `canary` the snapshot on trial is published, for `serve` to let it answer a share of the stream.
        `commit` makes a decision known before it is carried out, and `on_step` is called with every step of training;
        either may raise.

        Raises:
            VersionNotFound: there is no champion to learn from.
            DataError: it was trained on the images that it would be judged by.
        """
        self.settings, self.alias = settings, alias
        self.updates = 0  # made by this process
        judging = min(len(validation), settings.validation_size)
        apart = validation.take(torch.arange(judging, min(len(validation), judging + APART)))
        validation = validation.take(torch.arange(judging))
        generator = self._generator = torch.Generator().manual_seed(settings.seed)
        progress = self.progress = Progress()
        decisions = self.decisions = Decisions(registry, alias, epoch, commit)
        champion = load(registry, decisions.version)
        require_judgeable(champion.manifest, settings)
        observed = self.observed = ObservedStream(settings, champion.manifest.classes, validation, generator)
        self.schedule = UpdateSchedule(settings, observed, progress, clock)
        self.lineage = Lineage(registry, settings, champion, progress, validation=validation, generator=generator)
        show = CanaryAlias(registry, alias, wanted=canary, epoch=epoch)
        self._trial = Trial(
            settings, self.lineage, observed, progress, show,
            reference=reference, validation=validation, generator=generator,
        )  # fmt: skip
        self._promotion = Promotion(registry, settings, alias, self.lineage, self._trial, observed, decisions, show)
        self._succession = Succession(registry, settings, self._trial, self._promotion)
        self._rate = AdaptiveRate(settings.learning_rate, settings.learning_rate_min, settings.learning_rate_max)
        self._test = PrequentialTest(self.schedule, self._rate, self._succession)
        self._plan = LessonPlan(
            settings, observed, self.lineage, progress,
            reference=reference, apart=apart, generator=generator, on_step=on_step,
        )  # fmt: skip
        self.file = LearnerCheckpoint(registry, alias, stream=stream, epoch=epoch)
        if not afresh:
            self._restore()
        self._promotion.take_over_canary()

    def close(self) -> None:
        """Withdraw the snapshot on trial from serving."""
        with suppress(RegistryError):
            self._promotion.canary.withdraw("the learner has ended")

    @property
    def champion(self) -> int:
        """The version that is to be beaten."""
        return self.lineage.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the champion knows."""
        return self.lineage.classes

    @property
    def buffer(self) -> ReplayBuffer:
        """The labelled images that it learns from."""
        return self.observed.buffer

    @property
    def fresh(self) -> int:
        """Labelled examples since the last update."""
        return self.schedule.fresh

    @property
    def seen(self) -> int:
        """Images that have arrived, labelled or not: the number of the next one."""
        return self.observed.seen

    # --- the way of an image

    def see(self, pixels: torch.Tensor, *, updates: bool = True) -> Iterator[events.LearnEvent]:
        """Images (N, 3, 32, 32) uint8 as they arrive; their labels may come later, or never.

        After every 25th image the learner checks whether the inputs have moved, and whether to learn from that.
        Without `updates` the caller decides.
        """
        while len(pixels):
            now, pixels = pixels[: (size := GRID - self.seen % GRID)], pixels[size:]
            yield from self._look(self._test.arrive(now), updates)

    def learn(
        self, ids: Sequence[str], images: Images, *, numbers: Sequence[int] | None = None, updates: bool = True
    ) -> Iterator[events.LearnEvent]:
        """Test, then remember, then train on labelled images; make the decisions and updates that are then due.

        Due work is checked after every 25th labelled image, so that decisions do not depend on how the images are
        split into calls. `images.labels` (N,) must all be classes of the champion; repeated ids count once. `numbers`:
        the value of `seen` when each of them arrived; without them the images arrive now. Without `updates` the caller
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
                signal = self._test.arrive(part.pixels)
                yield from self._test.observe(named, part, range(first, self.seen), late=False)
                yield from self._look(signal, updates)
            else:
                yield from self._test.observe(named, part, [numbers[place] for place in now], late=True)
            if self.buffer.labelled % GRID == 0:
                yield from self._test.judge()
                if updates and (trigger := self.due()) is not None:
                    yield from self.update(trigger)

    def _look(self, signal: DriftSignal | None, updates: bool) -> Iterator[events.LearnEvent]:
        """React to the newest images: drift, and an update without labels."""
        if signal is not None and signal.began > self.observed.concept.began + GRID:  # else the errors have shown it
            yield from self._test.notice_drift(signal, self.seen)
        if updates and self.seen % GRID == 0 and (trigger := self._due_without_labels()) is not None:
            yield from self.update(trigger)

    # --- updates

    def due(self) -> str | None:
        """The reason for an update now by the labels that have come, if there is one."""
        return self.schedule.due()

    def catch_up(self) -> Iterator[events.LearnEvent]:
        """Make the update, if any, that has become due while updates waited."""
        if (trigger := self.due() or self._due_without_labels()) is not None:
            yield from self.update(trigger)

    def update(self, trigger: str) -> Iterator[events.LearnEvent]:
        """Let the lineage learn; its new snapshot goes on trial, or follows the one that serves.

        Ends with a RetrainResult, and a RateChanged where the learning rate falls.
        """
        began = time.perf_counter()
        fresh, lesson = self.fresh, self._plan.next(self._rate.value, estimated=self._trial.estimated)
        yield events.RetrainStarted(fresh, trigger, self.settings.strategy, self._rate.value)
        snapshot = self.lineage.strategy.propose(lesson)
        self.schedule.updated()
        self.updates += 1
        if not self.lineage.sound(snapshot):
            decision = Decision(False, ("values that are not finite: the lineage starts over",))
            unsound = Verdict(decision, Pairs(), Guard.none())
            yield self._succession.settle(unsound, examples=fresh, seconds=time.perf_counter() - began)
            return
        verdict = self._trial.judge(self.lineage.put_forward(snapshot))
        yield self._succession.settle(verdict, examples=fresh, seconds=time.perf_counter() - began)
        self._promotion.show_canary(verdict.guard)
        before = self._rate.value
        if not self.progress.quick_updates and self._rate.calm():
            yield events.RateChanged(before, self._rate.value, "no drift since the last update")

    def _due_without_labels(self) -> str | None:
        return self.schedule.due_without_labels() if self.lineage.strategy.unlabelled else None

    def follow_alias(self) -> Iterator[events.LearnEvent]:
        """Begin anew from another version where somebody has moved the alias: a promotion or a rollback by hand."""
        return self._succession.follow_alias()

    # --- reports

    def started(self) -> events.LearnerStarted:
        """The frame of this learner's work."""
        return report.started(self.champion, self.settings.strategy, self.buffer)

    def not_enough(self, examples: int) -> events.RetrainResult:
        """The result of a requested update that had only `examples` labelled images."""
        return report.not_enough(self.lineage, examples, self.settings.min_examples)

    def status(self) -> events.LearnerStatus:
        """The current state."""
        shadow = report.shadow(self.lineage, self._trial, self._succession.watching)
        return report.status(self.observed, self.schedule, self._rate.value, shadow)

    # --- the checkpoint

    def save(self, reading: Mapping[str, Any] | None = None) -> None:
        """Write all that decisions depend on into one file, atomically; `reading` is the stream reader's own state.

        Input offsets are committed after it; records read in between are read again after a crash.

        Raises:
            Superseded: another learner has taken over.
        """
        self.progress.reading = dict(reading or {})
        observed, buffer, concept = self.observed.dump()
        learned, strategy, snapshot = self.lineage.dump()
        watch = self._succession.watch
        state = LearnerState(
            strategy=[self.alias, *self.lineage.kind],
            champion=self.champion,
            generation=self.decisions.made,
            moves=self.decisions.known,
            arrived=self.seen,
            rate=self._rate.value,
            concept=concept,
            lineage=strategy,
            snapshot=snapshot,
            watch=None if watch is None else watch.state,
            progress=self.progress,
            standing=self.lineage.standing,
        )
        tensors = observed | learned | {"generator": self._generator.get_state()}
        self.file.save(
            tensors, {"buffer": buffer, "learner": state.to_json()}, self.lineage.champion.manifest, self.settings
        )

    def _restore(self) -> None:
        """Take over the checkpoint, as far as it is of the same stream and lineage."""
        if (found := self.file.load(self.lineage.champion.manifest, self.settings)) is None:
            return
        tensors, state = found
        own = LearnerState.of_json(state["learner"])
        self.observed.load(tensors, state["buffer"], own.concept, own.arrived)
        self.progress.take_over(own.progress)
        self._rate.value = own.rate
        if own.strategy == [self.alias, *self.lineage.kind] and self._succession.resume(own, tensors):
            self.progress.take_over(own.progress)
        else:  # another version or strategy: its lineage has just begun
            self._trial.begin()
        self._generator.set_state(tensors["generator"])  # last, as to begin a lineage may have drawn from it
