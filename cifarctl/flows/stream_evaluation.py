"""``cifarctl eval --stream``: strategies over the same drifting stream, each image predicted before it is learned from.

Prequential (test-then-train) evaluation: Gama et al. 2013, On Evaluating Stream Learning Algorithms.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.data import Course, Dataset, Images, Passage, Scenario, Split, split_of
from cifarctl.errors import DataError, SettingsError
from cifarctl.learning.contestants import Contestant, Predicts, Tutorial, Ungated, frozen, gated, oracle
from cifarctl.online.strategies import names
from cifarctl.registry.compatibility import require_compatible
from cifarctl.registry.loading import LoadedModel
from cifarctl.settings import OnlineSettings, Settings

STEP = 25  # images predicted at once; an update takes effect with the next ones
FINAL_IMAGES = 2000  # test images under each concept at the end
RECOVERED_WITHIN = 0.02  # of the oracle's accuracy: a phase counts as recovered
RECOVERY_WINDOW = 200  # images over which that accuracy is measured
LEAST_GAIN = 0.03  # of accuracy between frozen and oracle, below which the recovered share is mere noise
BASELINES = ("frozen", "tutorial")
OURS = "online"
ORACLE = "oracle"
COMPARED = ("frozen", OURS, ORACLE)


@dataclass
class Performance:
    """One contestant on one stream of N images, with its record so far.

    Attributes:
        correct: (N,) whether each prediction was right.
        seconds: CPU time of learning.
        detections: positions at which drifts were detected.
    """

    contestant: Contestant
    correct: NDArray[np.bool_]
    seconds: float = 0.0
    detections: list[int] = field(default_factory=list)


def strategies() -> list[str]:
    """All names that can be compared."""
    return [*BASELINES, *names(), OURS, ORACLE]


def evaluate_stream(
    model: LoadedModel,
    dataset: Dataset,
    scenario: Scenario,
    settings: Settings,
    *,
    compare: Sequence[str] = COMPARED,
    seeds: int = 1,
    images: int | None = None,
    rate: float | None = None,
    stop: threading.Event | None = None,
) -> Iterator[events.ContestEvent]:
    """Run each strategy of `compare` over the stream, with `seeds` seeds; ends with a StreamResult.

    With `rate` images a second the run is on a clock: an update takes effect as much later as it took to compute, and
    what comes meanwhile is learned from afterwards. Without, updates take no time. The images are those of the stream
    split, none twice, and at most `images` of them. When `stop` is set it ends without a result. `strategies` gives the
    names that can be compared: baselines, each way to learn by itself, and ``online``, which is the learner of `serve`
    with its gate, under `settings.online`.

    Raises:
        SettingsError: an unknown strategy, or a scenario that needs more images of a class than there are.
        DataError: the version has seen the stream's images, was trained on another split, or knows other classes.

    Long because it documents a public function, with an example.

    Example:
        >>> from cifarctl import Registry, Scenario, Settings, data, evaluate_stream, load_version
        >>> settings = Settings()
        >>> model = load_version(Registry(settings.registry), "production")
        >>> scenario = Scenario.parse("invert@50-150")
        >>> contest = evaluate_stream(
        ...     model, data.load(settings.data), scenario, settings, compare=["frozen", "replay"], images=150
        ... )
        >>> *_, result = contest
        >>> [(one.strategy, one.updates) for one in result.results]
        [('frozen', 0), ('replay', 1)]
        >>> [(phase.name, phase.start, phase.end) for phase in result.results[0].phases]
        [('clean', 0, 50), ('invert', 50, 150)]
    """
    stop = stop or threading.Event()
    if unknown := sorted(set(compare) - set(strategies())):
        raise SettingsError(f"--compare {','.join(unknown)}: no such strategy; there are {', '.join(strategies())}")
    parts = split_of(dataset, settings.data)
    _require_unseen(model, dataset, parts)
    stream = dataset.train.take(parts.stream)
    count = min(images or len(stream), len(stream))
    version = model.manifest.version
    yield events.ContestStarted(scenario.name, scenario.text, version, count, tuple(compare), seeds, rate)
    results: list[events.StrategyResult] = []
    contestants = _Contestants(model, dataset, parts, scenario, count)
    for seed in range(seeds):
        course = Course(stream, scenario, settings.produce.seed + seed, len(dataset.classes))
        passages = _passages(course, count)
        online = settings.online.model_copy(update={"seed": settings.online.seed + seed})
        for strategy in compare:
            yield events.ContestProgress(strategy, seed, 0, None)
            with contestants.open(strategy, online, settings.online.seed) as contestant:
                performance = Performance(contestant, np.zeros(count, dtype=np.bool_))
                for done in play(performance, passages, rate):
                    if stop.is_set():
                        return
                    yield events.ContestProgress(strategy, seed, done, float(performance.correct[:done].mean()))
                results.append(_result(strategy, seed, performance, dataset.test, scenario))
                yield results[-1]
    for index, result in enumerate(results):
        results[index] = _with_share(result, results)
    yield events.StreamResult(
        stream=scenario.name,
        scenario=scenario.text,
        version=version,
        images=count,
        rate=rate,
        online_strategy=settings.online.strategy,
        results=results,
    )


def _require_unseen(base: LoadedModel, dataset: Dataset, parts: Split) -> None:
    manifest = base.manifest
    require_compatible(manifest, dataset.name, dataset.classes, split=parts.sha256, unseen="the images of the stream")
    if "stream" in manifest.split.seen:
        raise DataError(
            f"version {manifest.version} was trained on the stream's images, so its accuracy on them says nothing: "
            "take one that was trained without --full (--version)"
        )
    if manifest.origin == "learner":
        raise DataError(
            f"version {manifest.version} has learned online from what `produce` streams, so its accuracy on the "
            "stream's images says nothing: take the one that it "
            "goes back to (--version; `cifarctl registry list` shows parents)"
        )


@dataclass
class _Contestants:
    """Opens contestants on one stream; the oracle, which takes long to train, is the same for all seeds."""

    base: LoadedModel
    dataset: Dataset
    split: Split
    scenario: Scenario
    count: int
    oracle: Contestant | None = None

    @contextmanager
    def open(self, name: str, online: OnlineSettings, oracle_seed: int) -> Iterator[Contestant]:
        """The contestant of that name, with the seed of `online`."""
        base, train = self.base, self.dataset.train
        if name == ORACLE:
            self.oracle = self.oracle or oracle(
                base, train.take(self.split.train), self.scenario, self.count, oracle_seed
            )
            yield self.oracle
        elif name == "frozen":
            yield frozen(base)
        elif name == "tutorial":
            yield Tutorial(base, online.seed)
        else:
            generator = torch.Generator().manual_seed(online.seed)
            chosen = torch.randperm(len(self.split.train), generator=generator)[: online.reference_size]
            reference = train.take(self.split.train[chosen])
            if name == OURS:
                with gated(base, online, reference, train.take(self.split.validation)) as contestant:
                    yield contestant
            else:
                yield Ungated(name, base, online, reference)


def _passages(course: Course, count: int) -> list[Passage]:
    """The whole stream, the same for all contestants.

    Raises:
        SettingsError: an image would come twice.
    """
    passages = [course.take(start, min(STEP, count - start)) for start in range(0, count, STEP)]
    if course.repeats_from is not None and course.repeats_from < count:
        raise SettingsError(
            f"at image {course.repeats_from} the scenario asks for a class that has no image left, and none may come "
            "twice: ask for fewer of them, or end the run before that with --images"
        )
    return passages


def play(performance: Performance, passages: Sequence[Passage], rate: float | None) -> Iterator[int]:
    """Predict each passage, then learn from the labels that have come; yields the number of images done so far.

    On a clock of `rate` images a second a replaced model predicts on until its replacement is computed, and the
    contestant neither sees nor learns anything else meanwhile.
    """
    contestant = performance.contestant
    serving, busy_until = contestant.serving, 0.0
    replaced: list[tuple[float, Predicts]] = []  # from when, by what
    arriving: list[tuple[int, int, torch.Tensor, int]] = []  # when by position, position, image, label
    unseen: list[torch.Tensor] = []
    start = 0
    for passage in passages:
        end = start + len(passage)
        while replaced and replaced[0][0] <= (start / rate if rate else math.inf):
            _, serving = replaced.pop(0)
        performance.correct[start:end] = (serving(passage.pixels, start).argmax(dim=1) == passage.concept).numpy()
        for index, (label, late) in enumerate(zip(passage.given.tolist(), passage.late.tolist(), strict=True)):
            if label >= 0:
                heapq.heappush(arriving, (start + index + late, start + index, passage.pixels[index], label))
        start = end
        unseen.append(passage.pixels)
        if rate and end / rate < busy_until:
            yield end
            continue
        clock, began, before = time.perf_counter(), time.process_time(), contestant.serving
        for _ in _work(contestant, unseen, arriving, end):
            if contestant.serving is not before:
                before = contestant.serving
                replaced.append((end / rate + time.perf_counter() - clock if rate else 0.0, before))
        busy_until = end / rate + time.perf_counter() - clock if rate else 0.0
        performance.detections += [end - 1] * (contestant.drifts - len(performance.detections))
        performance.seconds += time.process_time() - began
        yield end


def _work(
    contestant: Contestant, unseen: list[torch.Tensor], arriving: list[tuple[int, int, torch.Tensor, int]], end: int
) -> Iterator[None]:
    """Show the contestant the images, and teach it the labels, that have come before position `end`."""
    yield from contestant.see(torch.cat(unseen))
    unseen.clear()
    ready = []
    while arriving and arriving[0][0] < end:
        ready.append(heapq.heappop(arriving))
    if ready:
        _, positions, pixels, labels = zip(*ready, strict=True)
        yield from contestant.learn(list(map(str, positions)), Images(torch.stack(pixels), torch.tensor(labels)))
    yield from contestant.settle()


def _result(
    strategy: str, seed: int, performance: Performance, test: Images, scenario: Scenario
) -> events.StrategyResult:
    correct, count = performance.correct, len(performance.correct)
    edges = sorted({0, count, *(edge for edge in scenario.boundaries() if edge < count)})
    phases = [
        events.Phase(
            name=scenario.active(start),
            start=start,
            end=end,
            accuracy=float(correct[start:end].mean()),
        )
        for start, end in itertools.pairwise(edges)
    ]
    delays, false_alarms = _judge(performance.detections, edges[1:-1])
    return events.StrategyResult(
        strategy=strategy,
        seed=seed,
        prequential_accuracy=float(correct.mean()),
        recovered_share=None,
        phases=phases,
        final=_final(performance.contestant, phases, test, scenario),
        detections=performance.detections,
        detection_delays=delays,
        false_alarms=false_alarms,
        updates=performance.contestant.updates,
        promotions=performance.contestant.promotions,
        rollbacks=performance.contestant.rollbacks,
        seconds=performance.seconds,
        curve=_curve(correct),
    )


def _judge(detections: Sequence[int], changes: Sequence[int]) -> tuple[list[int | None], int]:
    """Images from each change to its first detection, None where it has none; and the number of false alarms."""
    delays: list[int | None] = []
    for change, after in itertools.pairwise([*changes, math.inf]):
        found = next((at for at in detections if change <= at < after), None)
        delays.append(None if found is None else found - int(change))
    return delays, len(detections) - sum(delay is not None for delay in delays)


def _final(
    contestant: Contestant, phases: Sequence[events.Phase], test: Images, scenario: Scenario
) -> dict[str, float]:
    """The accuracy after the stream on test images, under each concept that the stream had."""
    images = test.take(torch.arange(min(FINAL_IMAGES, len(test))))
    found: dict[str, float] = {}
    for phase in phases:
        if phase.name in found:
            continue
        hits = 0
        size = min(STEP * 10, phase.end - phase.start)
        for index in torch.split(torch.arange(len(images)), size):
            part, start = images.take(index), phase.end - len(index)
            transformed = scenario.apply(part.pixels, start, seed=1_000_003)
            right = scenario.concept(part.labels, start)
            hits += int((contestant.serving(transformed, start).argmax(dim=1) == right).sum())
        found[phase.name] = hits / len(images)
    return found


def _curve(correct: NDArray[np.bool_]) -> list[float]:
    """Accuracy over the last RECOVERY_WINDOW images, every STEP images."""
    total = np.concatenate([[0], np.cumsum(correct)])
    ends = np.arange(STEP, len(correct) + 1, STEP)
    starts = np.maximum(ends - RECOVERY_WINDOW, 0)
    return [round(float(share), 4) for share in (total[ends] - total[starts]) / (ends - starts)]


def _with_share(result: events.StrategyResult, results: Sequence[events.StrategyResult]) -> events.StrategyResult:
    """The result with what follows from those of frozen and oracle: the recovered share, and when phases recovered."""
    others = {other.strategy: other for other in results if other.seed == result.seed}
    if "frozen" not in others or ORACLE not in others:
        return result
    low, high = others["frozen"].prequential_accuracy, others[ORACLE].prequential_accuracy
    gain = high - low
    share = (result.prequential_accuracy - low) / gain if gain >= LEAST_GAIN else None
    phases = [
        replace(phase, recovered_after=_recovered(phase, result.curve, ceiling.accuracy - RECOVERED_WITHIN))
        for phase, ceiling in zip(result.phases, others[ORACLE].phases, strict=True)
    ]
    return replace(result, recovered_share=share, phases=phases)


def _recovered(phase: events.Phase, curve: Sequence[float], wanted: float) -> int | None:
    """Images of a phase until the accuracy over the last RECOVERY_WINDOW of them was `wanted`; None if never."""
    for number, accuracy in enumerate(curve):
        end = (number + 1) * STEP
        if phase.start + min(RECOVERY_WINDOW, phase.end - phase.start) <= end <= phase.end and accuracy >= wanted:
            return end - phase.start
    return None
