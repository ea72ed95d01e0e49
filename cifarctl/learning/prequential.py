"""The test in test-then-train: each labelled image is predicted before anything learns from it.

Prequential evaluation: Gama et al. 2013, On Evaluating Stream Learning Algorithms, Machine Learning 90.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning.schedule import UpdateSchedule
from cifarctl.learning.succession import Succession
from cifarctl.online.concept import DriftSignal
from cifarctl.online.gate import Pairs
from cifarctl.online.inputs import WINDOW
from cifarctl.online.rate import AdaptiveRate


class PrequentialTest:
    """Lets champion, challenger and the version on watch predict; concludes on drift, promotion and rollback."""

    def __init__(self, schedule: UpdateSchedule, rate: AdaptiveRate, succession: Succession) -> None:
        """Conclusions are carried out by `succession`; a drift changes the `schedule` and the learning `rate`."""
        self._schedule, self._rate, self._succession = schedule, rate, succession
        self._trial, self._promotion = succession.trial, succession.promotion
        self._lineage, self._stream = succession.promotion.lineage, succession.promotion.stream

    def arrive(self, pixels: torch.Tensor) -> DriftSignal | None:
        """Take in images (N, 3, 32, 32) uint8 without labels; the drift that they show, if any."""
        self._stream.arrive(pixels)
        judged = self._lineage.judged
        return self._stream.concept.images(
            pixels, self._stream.seen, lambda images: judged.predictor(images).amax(dim=1, keepdim=True)
        )

    def observe(
        self, ids: Sequence[str], images: Images, numbers: Sequence[int], *, late: bool
    ) -> Iterator[events.LearnEvent]:
        """Let all models predict, then remember, image by image, so that batches make no difference.

        Images from before the present concept began are remembered, but say nothing of it. `numbers`: which images of
        the stream they are. `late`: they have been seen before, and only their labels come now.
        """
        lineage, concept = self._lineage, self._stream.concept
        champion = lineage.judged.right(images)
        on_trial = lineage.challenger is not None and not lineage.standing.following
        challenger = lineage.challenger.right(images) if lineage.challenger and on_trial else champion
        before: NDArray[np.bool_] | None = None  # of the version before: a drift may begin its watch at any image
        present = [place for place, number in enumerate(numbers) if number >= concept.began]
        if present:
            lineage.strategy.observe(images.take(torch.tensor(present)))
        for place, (image_id, pixels, label) in enumerate(zip(ids, images.pixels, images.labels.tolist(), strict=True)):
            self._stream.buffer.add(image_id, pixels, label)
            if numbers[place] < concept.began:
                continue
            one = slice(place, place + 1)
            if on_trial:
                lineage.standing.pairs += Pairs.of(champion[one], challenger[one])
            if (watch := self._succession.watching) is not None:
                before = watch.judged.right(images) if before is None else before
                watch.add(Pairs.of(champion[one], before[one]))
            if (signal := concept.outcome(label, numbers[place], bool(champion[place]))) is not None:
                yield from self.notice_drift(signal, self._stream.seen if late else numbers[place] + 1)

    def notice_drift(self, signal: DriftSignal, at: int) -> Iterator[events.LearnEvent]:
        """Begin another concept, or take note that the present one was noticed once more."""
        before, after = signal.errors or self._stream.concept.error_rates(signal.began)
        another = self._stream.concept.renew(signal)
        self._schedule.drifted(another=another)
        if self._succession.watch is not None:
            self._succession.watch.reopen()
        if not self._lineage.standing.following and another:  # earlier pairs say little about the new concept
            self._trial.begin()
        yield events.DriftDetected(
            at=at,
            detector=signal.detector,
            since=at - signal.began,
            error_before=before,
            error_after=after,
        )
        rate = self._rate.value
        if self._rate.drift():
            yield events.RateChanged(rate, self._rate.value, "drift")

    def judge(self) -> Iterator[events.LearnEvent]:
        """Promote a challenger that has won its trial; go back where the version before does better."""
        lineage, trial, succession = self._lineage, self._trial, self._succession
        yield from succession.judge_watch()
        if not lineage.standing.following and trial.starved:
            trial.begin()
        revised = lineage.strategy.revise()
        if revised is not None and not lineage.sound(revised):
            revised = None
        if revised is not None:
            lineage.put_forward(revised)
        if lineage.challenger is None or not (revised if lineage.standing.following else trial.won):
            if revised is not None:
                self._promotion.show_canary()
            return
        verdict = trial.judge(lineage.challenger)
        if verdict.decision.promote:
            yield succession.settle(verdict, examples=self._schedule.fresh, seconds=0.0)
        elif not lineage.standing.following and len(lineage.standing.pairs) >= WINDOW:
            # Unsound, and a drift of the inputs would have been noticed by now: earlier wins do not count for later.
            yield succession.settle(verdict, examples=self._schedule.fresh, seconds=0.0)
            trial.begin()
        else:
            self._promotion.show_canary(verdict.guard)
