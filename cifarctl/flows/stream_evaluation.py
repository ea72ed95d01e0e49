"""The yardstick: strategies over the same drifting stream, each image predicted before its label is learned from.

Prequential (test-then-train) evaluation: Gama et al. 2013, On Evaluating Stream Learning Algorithms.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.data import Course, Dataset, Images, Passage, Scenario, Split, split
from cifarctl.errors import DataError, SettingsError
from cifarctl.learning.contestants import Contestant, Predicts, Tutorial, Ungated, frozen, gated, oracle
from cifarctl.online.strategies import names
from cifarctl.registry.compatibility import require_compatible
from cifarctl.registry.loading import LoadedModel
from cifarctl.settings import OnlineSettings, Settings

STEP = 25  # images predicted at once; an update takes effect with the next ones
FINAL_IMAGES = 2000  # test images under each concept at the end
CLOSE = 0.02  # to the ceiling: when a phase counts as recovered
RECENT = 200  # images over which that is judged
NOTHING_TO_GAIN = 0.03  # between frozen and oracle: below it no share is told
BASELINES = ("frozen", "tutorial")
OURS = "online"
ORACLE = "oracle"
COMPARED = ("frozen", OURS, ORACLE)


@dataclass
class Run:
    """What came of one contestant on one stream."""

    contestant: Contestant
    correct: NDArray[np.bool_]
    seconds: float = 0.0  # CPU time of learning
    detections: list[int] = field(default_factory=list)  # positions at which drifts were noticed


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
    parts = split(dataset.train.labels, settings.data.split, settings.data.split_seed)
    _require_unseen(model, dataset, parts)
    stream = dataset.train.take(parts.stream)
    count = min(images or len(stream), len(stream))
    version = model.manifest.version
    yield events.ContestStarted(scenario.name, scenario.text, version, count, tuple(compare), seeds, rate)
    ceiling: Contestant | None = None
    results: list[events.StrategyResult] = []
    for seed in range(seeds):
        course = Course(stream, scenario, settings.produce.seed + seed, len(dataset.classes))
        passages = _passages(course, count)
        online = settings.online.model_copy(update={"seed": settings.online.seed + seed})
        for strategy in compare:
            yield events.ContestProgress(strategy, seed, 0, None)
            with ExitStack() as stack:
                if strategy == ORACLE:
                    ceiling = contestant = ceiling or oracle(
                        model, dataset.train.take(parts.train), scenario, count, settings.online.seed
                    )
                else:
                    contestant = _contestant(stack, strategy, model, dataset, parts, online)
                run = Run(contestant, np.zeros(count, dtype=np.bool_))
                for done in play(run, passages, rate):
                    if stop.is_set():
                        return
                    yield events.ContestProgress(strategy, seed, done, float(run.correct[:done].mean()))
                results.append(_result(strategy, seed, run, dataset.test, scenario))
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


def _require_unseen(base: LoadedModel, dataset: Dataset, split: Split) -> None:
    manifest = base.manifest
    require_compatible(manifest, dataset.name, dataset.classes, split=split.sha256, unseen="the images of the stream")
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


def _contestant(
    stack: ExitStack, name: str, base: LoadedModel, dataset: Dataset, split: Split, online: OnlineSettings
) -> Contestant:
    if name == "frozen":
        return frozen(base)
    if name == "tutorial":
        return Tutorial(base, online.seed)
    generator = torch.Generator().manual_seed(online.seed)
    chosen = split.train[torch.randperm(len(split.train), generator=generator)[: online.reference_size]]
    reference = dataset.train.take(chosen)
    if name == OURS:
        return stack.enter_context(gated(base, online, reference, dataset.train.take(split.validation)))
    return Ungated(name, base, online, reference)


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


def play(run: Run, passages: Sequence[Passage], rate: float | None) -> Iterator[int]:
    """Predict, then learn what labels have come; yields how many images are done.

    On a clock of `rate` images a second what is replaced predicts from when that was done, and as long as the
    contestant is at work it neither sees nor learns.
    """
    contestant = run.contestant
    serving, busy_until = contestant.serving, 0.0
    replaced: list[tuple[float, Predicts]] = []  # from when, by what
    arriving: list[tuple[int, int, torch.Tensor, int]] = []  # when by position, position, image, label
    unseen: list[torch.Tensor] = []
    start = 0
    for passage in passages:
        end = start + len(passage)
        while replaced and replaced[0][0] <= (start / rate if rate else math.inf):
            _, serving = replaced.pop(0)
        run.correct[start:end] = (serving(passage.pixels, start).argmax(dim=1) == passage.concept).numpy()
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
        run.detections += [end - 1] * (contestant.drifts - len(run.detections))
        run.seconds += time.process_time() - began
        yield end


def _work(
    contestant: Contestant, unseen: list[torch.Tensor], arriving: list[tuple[int, int, torch.Tensor, int]], end: int
) -> Iterator[None]:
    """What the contestant does with the images and the labels that have come before position `end`."""
    yield from contestant.see(torch.cat(unseen))
    unseen.clear()
    ready = []
    while arriving and arriving[0][0] < end:
        ready.append(heapq.heappop(arriving))
    if ready:
        _, positions, pixels, labels = zip(*ready, strict=True)
        yield from contestant.learn(list(map(str, positions)), Images(torch.stack(pixels), torch.tensor(labels)))
    yield from contestant.settle()


def _result(strategy: str, seed: int, run: Run, test: Images, scenario: Scenario) -> events.StrategyResult:
    correct, count = run.correct, len(run.correct)
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
    delays, false_alarms = _judge(run.detections, edges[1:-1])
    return events.StrategyResult(
        strategy=strategy,
        seed=seed,
        prequential_accuracy=float(correct.mean()),
        recovered_share=None,
        phases=phases,
        final=_final(run.contestant, phases, test, scenario),
        detections=run.detections,
        detection_delays=delays,
        false_alarms=false_alarms,
        updates=run.contestant.updates,
        promotions=run.contestant.promotions,
        rollbacks=run.contestant.rollbacks,
        seconds=run.seconds,
        curve=_curve(correct),
    )


def _judge(detections: Sequence[int], changes: Sequence[int]) -> tuple[list[int | None], int]:
    """Images from each change to its first detection, None where none came before the next; how many are neither."""
    delays: list[int | None] = []
    for change, after in itertools.pairwise([*changes, math.inf]):
        found = next((at for at in detections if change <= at < after), None)
        delays.append(None if found is None else found - int(change))
    return delays, len(detections) - sum(delay is not None for delay in delays)


def _final(
    contestant: Contestant, phases: Sequence[events.Phase], test: Images, scenario: Scenario
) -> dict[str, float]:
    """The accuracy, after the stream, on test images under each concept that it had."""
    images = test.take(torch.arange(min(FINAL_IMAGES, len(test))))
    found: dict[str, float] = {}
    for phase in phases:
        if phase.name in found:
            continue
        hits = 0
        size = min(STEP * 10, phase.end - phase.start)
        for index in torch.split(torch.arange(len(images)), size):
            part, start = images.take(index), phase.end - len(index)
            shown = scenario.apply(part.pixels, start, seed=1_000_003)
            right = scenario.concept(part.labels, start)
            hits += int((contestant.serving(shown, start).argmax(dim=1) == right).sum())
        found[phase.name] = hits / len(images)
    return found


def _curve(correct: NDArray[np.bool_]) -> list[float]:
    """Accuracy of the last images, every STEP images."""
    total = np.concatenate([[0], np.cumsum(correct)])
    ends = np.arange(STEP, len(correct) + 1, STEP)
    starts = np.maximum(ends - RECENT, 0)
    return [round(float(share), 4) for share in (total[ends] - total[starts]) / (ends - starts)]


def _with_share(result: events.StrategyResult, results: Sequence[events.StrategyResult]) -> events.StrategyResult:
    """With what only the other strategies' results can tell: the recovered share, and when phases were recovered."""
    others = {other.strategy: other for other in results if other.seed == result.seed}
    if "frozen" not in others or ORACLE not in others:
        return result
    low, high = others["frozen"].prequential_accuracy, others[ORACLE].prequential_accuracy
    gain = high - low
    share = (result.prequential_accuracy - low) / gain if gain >= NOTHING_TO_GAIN else None
    phases = [
        replace(phase, recovered_after=_recovered(phase, result.curve, ceiling.accuracy - CLOSE))
        for phase, ceiling in zip(result.phases, others[ORACLE].phases, strict=True)
    ]
    return replace(result, recovered_share=share, phases=phases)


def _recovered(phase: events.Phase, curve: Sequence[float], wanted: float) -> int | None:
    """Images of a phase after which the last RECENT of them were as good as wanted; None if never."""
    for number, accuracy in enumerate(curve):
        end = (number + 1) * STEP
        if phase.start + min(RECENT, phase.end - phase.start) <= end <= phase.end and accuracy >= wanted:
            return end - phase.start
    return None
