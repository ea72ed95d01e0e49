"""``cifarctl demo``: the whole loop on the embedded broker: train, stream, drift, detect, relearn, promote, recover."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from cifarctl import events
from cifarctl.data import Course, Dataset, Images, Scenario, Split
from cifarctl.errors import CifarctlError, RegistryError
from cifarctl.flows.background import BackgroundFlow
from cifarctl.flows.produce import produce
from cifarctl.flows.serve import serve
from cifarctl.flows.train import train
from cifarctl.registry import Description, Registry
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish
from cifarctl.settings import KafkaSettings, ProduceSettings, Settings
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.training.metrics import evaluate

STAGES = (
    "a model to begin with",
    "an embedded broker, a predictor, a learner",
    "clean images: the model does what it was trained for",
    "DRIFT: the colours are inverted",
    "done",
)
OPERATION = "invert"
EPOCHS = 3
RATE = 60.0  # images a second
CLEAN, DRIFTED = 1500, 5000  # images
AFTER_DRIFT = 200  # images over which the accuracy right after the drift is measured
TAIL = 1000  # images over which the accuracy at the end is measured


@dataclass
class _Observed:
    """The demo's record of its stream: whether each prediction was right, in order, and serve's result."""

    outcomes: list[bool] = field(default_factory=list)
    result: events.OnlineServeResult | None = None


def demo(settings: Settings, dataset: Dataset, split: Split, *, stop: threading.Event) -> Iterator[events.DemoEvent]:
    """Run the loop in a registry of its own, the folder ``demo`` in that of `settings`; ends with a DemoResult.

    The registry's production version is taken where it fits the data and has not seen the stream, else a small one
    is trained. When `stop` is set the demo ends without a result.

    Raises:
        BrokerError: the embedded broker cannot be started.
        CifarctlError: the learner cannot start.
    """
    began = time.monotonic()
    home = Registry(settings.registry)
    settings = _demo_settings(settings)
    shutil.rmtree(settings.registry.dir, ignore_errors=True)
    registry = Registry(settings.registry)
    drift = Scenario.parse(f"{OPERATION}@{CLEAN}-{CLEAN + DRIFTED}")
    stream = dataset.train.take(split.stream)

    yield _stage(1)
    if not _copy_production(home, registry, dataset, split):
        yield from train(dataset, settings, stop=stop)
        if stop.is_set():
            return
    first = registry.resolve("production")

    yield _stage(2)
    observed = _Observed()
    with EmbeddedBroker() as broker:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        settings = settings.model_copy(update={"kafka": kafka})
        answered = threading.Event()  # set when everything is answered, and by `stop`
        threading.Thread(target=_pass_on, args=(stop, answered), daemon=True).start()
        sending = produce(
            stream,
            len(dataset.classes),
            kafka,
            settings.produce,
            settings.serve,
            count=CLEAN + DRIFTED,
            drift=drift,
            stop=answered,
        )
        yield from _serve_until_answered(settings, sending, answered, observed)
    if stop.is_set() or observed.result is None:
        return

    yield _stage(5)
    passage = Course(stream, drift, settings.produce.seed, len(dataset.classes)).take(CLEAN + DRIFTED - TAIL, TAIL)
    tail = Images(passage.pixels, passage.concept)
    left_alone = evaluate(load(registry, first).predictor(), tail).accuracy
    seconds = time.monotonic() - began
    yield _result(observed.outcomes, observed.result, dataset.name, left_alone, seconds, settings.registry.dir)


def _serve_until_answered(
    settings: Settings,
    sending: Iterator[events.ProduceEvent],
    answered: threading.Event,
    observed: _Observed,
) -> Iterator[events.DemoEvent]:
    """Serve and learn while `sending` runs, from the time when the learner is ready; sets `answered` at the end."""
    producer = BackgroundFlow(sending)
    with closing(serve(settings, online=True, stop=answered)) as serving:
        for event in serving:
            yield event
            if isinstance(event, events.LearnerStarted) and not producer.started:
                yield _stage(3)
                producer.start()
            elif isinstance(event, events.LearnerDown) and not producer.started:
                raise CifarctlError(f"the learner cannot start ({event.reason}); `cifarctl doctor` looks for the cause")
            elif isinstance(event, events.BatchServed):
                before = len(observed.outcomes)
                observed.outcomes += (event.predicted == event.labels).tolist()
                if before < CLEAN <= len(observed.outcomes):
                    yield _stage(4)
            elif isinstance(event, events.OnlineServeResult):
                observed.result = event
            producer.check()
            if len(observed.outcomes) >= CLEAN + DRIFTED:
                answered.set()


def _result(
    outcomes: list[bool],
    served: events.OnlineServeResult,
    data: str,
    left_alone: float,
    seconds: float,
    registry: Path,
) -> events.DemoResult:
    """The result; `left_alone` is the accuracy at the end of the stream of the version that the demo began with."""
    return events.DemoResult(
        data=data,
        images=len(outcomes),
        drift=OPERATION,
        accuracy_clean=_mean(outcomes[:CLEAN]),
        accuracy_after_drift=_mean(outcomes[CLEAN : CLEAN + AFTER_DRIFT]),
        accuracy_at_end=_mean(outcomes[-TAIL:]),
        accuracy_left_alone=left_alone,
        retrains=served.retrains,
        promotions=served.promotions,
        model_versions=served.model_versions,
        latency_ms=served.latency_ms,
        seconds=seconds,
        registry=str(registry),
    )


def _pass_on(stop: threading.Event, answered: threading.Event) -> None:
    stop.wait()
    answered.set()


def _stage(number: int) -> events.DemoStage:
    return events.DemoStage(number, len(STAGES), STAGES[number - 1])


def _demo_settings(settings: Settings) -> Settings:
    """Brisk settings for a few minutes of stream; what the user set of data, devices and strategy stays."""
    return settings.model_copy(
        update={
            "train": settings.train.model_copy(update={"epochs": EPOCHS, "target_accuracy": None}),
            "registry": settings.registry.model_copy(update={"dir": settings.registry.dir / "demo"}),
            "kafka": KafkaSettings(topic_prefix="demo", group_id="demo", session_timeout_ms=2000),
            "produce": ProduceSettings(rate=RATE),
            "online": settings.online.model_copy(update={"update_every": 400}),
        }
    )


def _copy_production(home: Registry, registry: Registry, dataset: Dataset, split: Split) -> bool:
    """Publish the production version of `home` in `registry`; False where there is none, or none that fits."""
    try:
        loaded = load(home, "production")
    except RegistryError:
        return False
    manifest = loaded.manifest
    if manifest.classes != dataset.classes or manifest.split.sha256 != split.sha256 or "stream" in manifest.split.seen:
        return False
    copy = publish(registry, loaded.model, Description.like(manifest, parent=None))
    registry.promote(copy.version, who="demo", why=f"copy of version {manifest.version} of {home.dir}")
    return True


def _mean(outcomes: list[bool]) -> float:
    return sum(outcomes) / len(outcomes)
