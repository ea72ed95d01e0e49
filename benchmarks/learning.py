"""Learning online against leaving the model alone, and against the tutorial's algorithm: no broker, one stream.

Measures prequential accuracy (test, then train) over a drifting stream of images that no model has seen, and what is
left on clean test images at the end. All three start from the registry's production version; updates take effect at
once. The tutorial's algorithm: a deque of the last labelled images; every so often five epochs over them, one image a
step, Adam at 1e-3, on the model that serves.

    cifarctl train --epochs 10
    python -m benchmarks.learning [--drift covariate] [--images 10000]

Printed when last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from cifarctl import data, events, settings
from cifarctl.data import Course, Images, Scenario
from cifarctl.flows.evaluate import evaluate
from cifarctl.flows.learner import Learner
from cifarctl.models.predictor import Predictor
from cifarctl.models.preprocess import normalise
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load

STEP = 25  # images between two looks at the learner
TUTORIAL_BUFFER = 500
TUTORIAL_EPOCHS = 5


@dataclass
class Outcome:
    """What one algorithm did with the stream."""

    name: str
    prequential: float
    clean: float
    promotions: int | None
    seconds: float


def main() -> None:
    """Run the three and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drift", default="covariate")
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    effective = settings.load()
    dataset = data.load(effective.data)
    parts = data.split(dataset.train.labels, effective.data.split, effective.data.split_seed)
    stream = dataset.train.take(parts.stream)
    scenario = Scenario.parse(arguments.drift)
    course = Course(stream, scenario, effective.produce.seed, len(dataset.classes))

    def batch(start: int) -> Images:
        passage = course.take(start, min(STEP, arguments.images - start))
        return Images(passage.pixels, passage.concept)

    starts = range(0, arguments.images, STEP)
    base = load(Registry(effective.registry), "production")
    print(
        f"{dataset.name}, {arguments.images} images, drift {scenario.text or 'none'}, version {base.manifest.version}"
    )
    for run in (leave_alone, tutorial):
        show(run(base, dataset.test, starts, batch))
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "registry"
        shutil.copytree(effective.registry.dir, copied, ignore=shutil.ignore_patterns("learner", "demo"))
        own = effective.registry.model_copy(update={"dir": copied})
        learner = Learner(
            Registry(own),
            effective.online,
            effective.serve.alias,
            reference=dataset.train.take(parts.train[:: max(1, len(parts.train) // effective.online.reference_size)]),
            validation=dataset.train.take(parts.validation),
        )
        show(ours(learner, Registry(own), dataset.test, starts, batch, effective.online.strategy))


def show(outcome: Outcome) -> None:
    """One row."""
    promotions = "" if outcome.promotions is None else f"  promotions {outcome.promotions}"
    print(
        f"{outcome.name:22} prequential {outcome.prequential:6.1%}  clean at the end {outcome.clean:6.1%}  "
        f"{outcome.seconds:5.0f} s{promotions}",
        flush=True,
    )


def predictor_of(loaded: LoadedModel) -> Predictor:
    """The version as it would serve, in float32."""
    normalisation = loaded.manifest.normalisation
    return Predictor(copy.deepcopy(loaded.model), normalisation.mean, normalisation.std)


def right(predictor: Predictor, images: Images) -> int:
    """How many of `images` it gets right."""
    return int((predictor(images.pixels).argmax(dim=1) == images.labels).sum())


def leave_alone(base: LoadedModel, test: Images, starts: range, batch: Callable[[int], Images]) -> Outcome:
    """The model as it was trained."""
    began, predictor = time.perf_counter(), predictor_of(base)
    hits = sum(right(predictor, batch(start)) for start in starts)
    return Outcome(
        "left alone", hits / starts.stop, evaluate(predictor, test).accuracy, None, time.perf_counter() - began
    )


def tutorial(base: LoadedModel, test: Images, starts: range, batch: Callable[[int], Images]) -> Outcome:
    """The tutorial's consumer: fine-tune the serving model on the last labelled images, one by one."""
    began, predictor = time.perf_counter(), predictor_of(base)
    model, normalisation = predictor.model, base.manifest.normalisation
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    buffer: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=TUTORIAL_BUFFER)
    hits = 0
    for start in starts:
        images = batch(start)
        hits += right(predictor, images)
        buffer.extend(zip(images.pixels, images.labels, strict=True))
        if (start + STEP) % TUTORIAL_BUFFER:
            continue
        for _ in range(TUTORIAL_EPOCHS):
            for pixels, label in buffer:
                inputs = normalise(pixels[None], normalisation.mean, normalisation.std)
                loss = functional.cross_entropy(model(inputs), label[None])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    seconds = time.perf_counter() - began
    return Outcome("tutorial's algorithm", hits / starts.stop, evaluate(predictor, test).accuracy, None, seconds)


def ours(
    learner: Learner, registry: Registry, test: Images, starts: range, batch: Callable[[int], Images], name: str
) -> Outcome:
    """The learner that `serve --online` runs, its promotions taking effect at once."""
    began, hits, promotions = time.perf_counter(), 0, 0
    with learner:
        champion = load(registry, "production")
        predictor = predictor_of(champion)
        for start in starts:
            images = batch(start)
            hits += right(predictor, images)
            happened: list[events.LearnEvent] = list(
                learner.observe([str(start + index) for index in range(len(images))], images)
            )
            trigger = learner.due()
            if trigger is not None:
                happened += learner.update(trigger)
            promotions += sum(isinstance(e, events.RetrainResult) and e.outcome == "promoted" for e in happened)
            if learner.champion != champion.manifest.version:
                champion = load(registry, learner.champion)
                predictor = predictor_of(champion)
    seconds = time.perf_counter() - began
    return Outcome(f"cifarctl ({name})", hits / starts.stop, evaluate(predictor, test).accuracy, promotions, seconds)


if __name__ == "__main__":
    main()
