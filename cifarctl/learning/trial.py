"""The trial of a challenger: prequential pairs, the error that it may spend, and the guard of validation images."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cifarctl.data import Images
from cifarctl.learning.canary_alias import CanaryAlias
from cifarctl.learning.lineage import Lineage
from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.scored_model import ScoredModel
from cifarctl.learning.state import Progress
from cifarctl.models.preprocess import normalise
from cifarctl.online import prior
from cifarctl.online.appearance import Appearance, AppearanceTransfer
from cifarctl.online.fit import sample
from cifarctl.online.gate import Decision, Guard, Pairs, decide, follow, spend
from cifarctl.online.inputs import MIN_IMAGES
from cifarctl.settings import OnlineSettings

JUDGED = 500  # recent labelled images used to judge whether inputs or class frequencies have shifted
ESTIMATED = 300  # validation images that estimates without labels rest on
STATISTICS = 1000  # training images that these are made to look like the stream by
COMPARED = 125  # newest images, one batch, used to see whether a snapshot predicts differently
STARVED = 0.01  # evidence below which a trial starts over, rather than make up for an earlier, worse lineage


class Verdict(NamedTuple):
    """A decision on a challenger, with the figures behind it."""

    decision: Decision
    pairs: Pairs
    guard: Guard


class Trial:
    """Judges the lineage's challenger: on trial by all pairs so far, later by whether something is wrong with it."""

    def __init__(
        self,
        settings: OnlineSettings,
        lineage: Lineage,
        stream: ObservedStream,
        progress: Progress,
        canary: CanaryAlias,
        *,
        reference: Images,
        validation: Images,
        generator: torch.Generator,
    ) -> None:
        """`reference` are training images and `validation` others, from which estimates without labels are made."""
        self._settings, self._lineage, self._stream, self._progress = settings, lineage, stream, progress
        self._canary, self._generator = canary, generator
        self._reference = reference
        self._known = validation.take(torch.arange(min(len(validation), ESTIMATED)))

    @property
    def alpha(self) -> float:
        """The error that the present trial may spend."""
        return spend(self._settings.gate_alpha, self._progress.trials)

    @property
    def won(self) -> bool:
        """Whether the pairs say that the challenger is better."""
        return self._lineage.standing.pairs.evidence >= 1 / self.alpha

    @property
    def starved(self) -> bool:
        """Whether the challenger has lost so much that it would take long to make up for it."""
        return self._lineage.standing.pairs.evidence < STARVED

    @property
    def estimated(self) -> bool:
        """Whether estimates take the place of labels, of which there are too few."""
        return self._stream.few_labels and self._lineage.strategy.unlabelled

    def begin(self) -> None:
        """Begin another trial, without any pairs."""
        self._progress.trials += 1
        self._lineage.standing.pairs = Pairs()
        self._canary.withdraw("its trial is over")

    def judge(self, challenger: ScoredModel) -> Verdict:
        """The verdict on the challenger so far, or on whether it may follow the champion of its lineage."""
        guard, estimated = self.guard(challenger), self.estimated
        lineage, settings = self._lineage, self._settings
        if not lineage.standing.following:
            pairs = self._likely(challenger) if estimated else lineage.standing.pairs
            return Verdict(decide(pairs, guard, alpha=self.alpha, estimated=estimated), pairs, guard)
        held_out = self._stream.held_out()
        pairs = Pairs.of(lineage.judged.right(held_out), challenger.right(held_out))
        if estimated:
            pairs = self._likely(challenger)
        changed = challenger.differs(lineage.judged, self._stream.newest(COMPARED).pixels, lineage.precision)
        decision = follow(pairs, guard, changed=changed, alpha=settings.gate_alpha, estimated=estimated)
        return Verdict(decision, pairs, guard)

    def guard(self, challenger: ScoredModel) -> Guard:
        """The verdict of the validation images, weighted by the current class frequencies."""
        stream, lineage = self._stream, self._lineage
        recent = max(stream.labelled(JUDGED), stream.window(), key=len)
        if self._settings.follow_relabelling:
            return Guard.none("online.follow_relabelling")
        if stream.moved(recent):
            return Guard.none("the inputs have moved away from the validation images")
        weights = torch.full((len(lineage.classes),), 1 / len(lineage.classes))
        if len(recent):
            weights = prior.estimate(lineage.base.predictor(recent.pixels))
        base, old, new = (
            float((weights * judged.validation).sum()) for judged in (lineage.base, lineage.judged, challenger)
        )
        return Guard(old, new, base - self._settings.validation_tolerance)

    def _likely(self, challenger: ScoredModel) -> Pairs:
        """How champion and challenger are likely to do on the newest images, whose labels are not known."""
        stream, lineage, known = self._stream, self._lineage, self._known
        window, (mean, std) = stream.window().pixels, lineage.normalisation
        if len(window) < MIN_IMAGES or not len(known):
            return Pairs()
        reference = sample(self._reference, STATISTICS, self._generator).pixels
        usual, present = (Appearance.of(normalise(pixels, mean, std)) for pixels in (reference, window))
        alike = AppearanceTransfer(usual, present)(normalise(known.pixels, mean, std), self._generator)
        champion, other = (
            judged.likely(window, alike, known.labels, lineage.precision, follows=learned_at > stream.concept.began)
            for judged, learned_at in (
                (lineage.judged, lineage.standing.champion_at),
                (challenger, self._progress.updated_arrived),
            )
        )
        return Pairs.of(champion, other)
