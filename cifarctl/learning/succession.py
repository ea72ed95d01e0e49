"""Succession of champions: after a verdict, by rollback, and by moves of the alias by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import torch

from cifarctl import events
from cifarctl.errors import AliasConflict, DataError, IntegrityError, ModelTooLarge, RegistryError
from cifarctl.learning.promotion import Promotion
from cifarctl.learning.state import LearnerState, WatchState
from cifarctl.learning.trial import Trial, Verdict
from cifarctl.learning.watch import Watch
from cifarctl.online.judgeable import require_judgeable
from cifarctl.registry import Registry
from cifarctl.registry.checkpoint import within
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.settings import OnlineSettings


class Succession:
    """Replaces the champion by a challenger that has won, the version before, or one that somebody else promotes.

    When a lineage has won its trial, its later snapshots follow without one, as long as nothing is wrong with them and
    the champion before does not do better.
    """

    def __init__(self, registry: Registry, settings: OnlineSettings, trial: Trial, promotion: Promotion) -> None:
        """Put the lineage on trial against the champion that it has begun from."""
        self._registry, self._settings = registry, settings
        self.trial, self.promotion = trial, promotion
        self._lineage, self._stream, self._decisions = promotion.lineage, promotion.stream, promotion.decisions
        self._refused = 0  # generation of an alias move that could not be followed
        self.watch: Watch | None = None
        self._put_on_trial()

    @property
    def watching(self) -> Watch | None:
        """The watch, while a window of it is open."""
        return self.watch if self.watch is not None and self.watch.open else None

    def settle(self, verdict: Verdict, *, examples: int, seconds: float) -> events.RetrainResult:
        """Carry out a decision on the newest snapshot."""
        lineage, pairs, guard = self._lineage, verdict.pairs, verdict.guard
        champion, judged, update = lineage.version, lineage.judged, lineage.standing.following
        reasons, version = list(verdict.decision.reasons), None
        try:
            if verdict.decision.promote:
                version = self.promotion.promote(reasons, verdict)
                self._promoted(Watch(WatchState(champion), judged, self._settings))
            else:
                self.promotion.reject(reasons)
        except (AliasConflict, ModelTooLarge) as error:
            reasons.append(f"{'not promoted' if verdict.decision.promote else 'not recorded'}: {error}")
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

    def judge_watch(self) -> Iterator[events.LearnEvent]:
        """Go back where the version before does better; end a window that is as long as it may be."""
        if (watch := self.watching) is not None:
            if watch.better:
                yield from self._roll_back(watch)
            else:
                watch.close_if_over()
        self._decisions.give_up(before=self._stream.now)

    def follow_alias(self) -> Iterator[events.LearnEvent]:
        """Begin anew from another version where somebody has moved the alias: a promotion or a rollback by hand."""
        decisions, lineage = self._decisions, self._lineage
        decisions.give_up(before=self._stream.now)
        if (moved := decisions.look()) is None:
            return
        (version, generation), old = moved, lineage.version
        try:
            require_judgeable(self._registry.manifest(version), self._settings)  # before a large file is read in vain
            loaded = load(self._registry, version)
            if loaded.manifest.classes != lineage.classes:
                raise IntegrityError(f"version {version} has other classes")
        except (RegistryError, DataError) as error:
            if self._refused != generation:
                self._refused = generation
                self.promotion.canary.withdraw(f"{decisions.mover} has moved the alias")
                yield events.Notice(f"the learner stays with version {old} and promotes nothing: {error}")
            return
        decisions.generation = decisions.made = generation
        if version == old:
            return
        self._start_from(loaded, generation)
        yield events.ChampionChanged(old, version)

    def resume(self, own: LearnerState, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Go on with the lineage and champion of a checkpoint; False where they cannot be taken over."""
        redo = self._decisions.since(own.moves)
        if redo is None:  # somebody else has moved the alias
            return False
        try:
            began, champion = (load(self._registry, number) for number in (own.standing.began, own.champion))
        except RegistryError:  # no longer there
            return False
        self._start_from(began, own.generation)
        self._lineage.load(tensors, own.lineage, own.snapshot, champion, own.standing)
        self._decisions.redo(redo)
        self._stream.concept.load_champion(within("concept/", tensors), own.concept)
        if own.watch is not None:
            with suppress(RegistryError):  # no longer there: nothing to go back to
                before = self._lineage.measured(load(self._registry, own.watch.previous).predictor())
                self.watch = Watch(own.watch, before, self._settings)
        return True

    def _roll_back(self, watch: Watch) -> Iterator[events.LearnEvent]:
        decisions, old, previous, pairs = self._decisions, self._lineage.version, watch.state.previous, watch.pairs
        reason = (
            f"of {len(pairs):,} labelled images version {previous} alone gets {pairs.gained} right, version "
            f"{old} alone {pairs.lost}"
        )
        try:
            if (move := decisions.again("rollback", self._stream.now)) is not None:
                generation = move.generation
            else:
                decisions.carry_out("rollback", previous, reason, champion=old, now=self._stream.now)
                generation = decisions.generation
            restored = load(self._registry, previous)
        except RegistryError as error:  # moved by somebody else, which follow_alias takes over, or no longer there
            self.watch = None
            yield events.Notice(f"version {previous} performs better, but rolling back failed: {error}")
            return
        if previous == self._lineage.standing.began:
            decisions.made = generation
            self._lineage.step_back(restored)
            self._put_on_trial()
        else:
            self._start_from(restored, generation)
        yield events.RolledBack(old, previous, reason)

    def _promoted(self, watch: Watch) -> None:
        self._stream.concept.another_champion()
        if not self._lineage.standing.following:
            self._lineage.standing.following = True
            self._stream.concept.another_lineage()
            self.watch = watch if self._settings.watch else None
        elif self.watch is not None:
            self.watch.reopen()

    def _start_from(self, champion: LoadedModel, generation: int) -> None:
        """Begin a lineage from `champion`, the version to be beaten as of that move of the alias."""
        self._decisions.made = generation
        self._lineage.start_from(champion)
        self._put_on_trial()

    def _put_on_trial(self) -> None:
        """Let no snapshot serve before another trial is won."""
        self.watch = None
        self._stream.concept.another_lineage()
        self.trial.begin()
