"""The whole loop on the embedded broker: train, stream, drift, detect, relearn, promote, recover."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing

from cifarctl import events
from cifarctl.data import Course, Dataset, Images, Scenario, Split
from cifarctl.errors import CifarctlError, RegistryError
from cifarctl.flows.produce import produce
from cifarctl.flows.serve import serve
from cifarctl.flows.train import train
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish_like
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
TAIL = 1000  # images at an end over which an accuracy is told


def demo(settings: Settings, dataset: Dataset, split: Split, *, stop: threading.Event) -> Iterator[events.DemoEvent]:
    """Run the loop in a registry of its own, the folder ``demo`` in that of `settings`; ends with a DemoResult.

    The registry's production version is taken where it fits the data and has not seen the stream, else a small one
    is trained. When `stop` is set it ends without a result.

    Raises:
        BrokerError: the embedded broker cannot be started.
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
    with EmbeddedBroker() as broker:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        settings = settings.model_copy(update={"kafka": kafka})
        outcomes: list[bool] = []
        learned: events.OnlineServeResult | None = None
        answered = threading.Event()  # set when all is answered, and when we are told to stop
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
        sender = _Sender(sending)
        serving = serve(settings, online=True, stop=answered)
        with closing(serving):
            for event in serving:
                yield event
                if isinstance(event, events.LearnerStarted) and not sender.started:
                    yield _stage(3)
                    sender.start()
                elif isinstance(event, events.LearnerDown) and not sender.started:
                    raise CifarctlError(
                        f"the learner cannot start ({event.reason}); `cifarctl doctor` looks for the cause"
                    )
                elif isinstance(event, events.BatchServed):
                    before = len(outcomes)
                    outcomes += (event.predicted == event.labels).tolist()
                    if before < CLEAN <= len(outcomes):
                        yield _stage(4)
                elif isinstance(event, events.OnlineServeResult):
                    learned = event
                sender.check()
                if len(outcomes) >= CLEAN + DRIFTED:
                    answered.set()
    if stop.is_set() or learned is None:
        return

    yield _stage(5)
    passage = Course(stream, drift, settings.produce.seed, len(dataset.classes)).take(CLEAN + DRIFTED - TAIL, TAIL)
    tail = Images(passage.pixels, passage.concept)
    alone = load(registry, first)
    yield events.DemoResult(
        data=dataset.name,
        images=len(outcomes),
        drift=OPERATION,
        accuracy_clean=_mean(outcomes[:CLEAN]),
        accuracy_after_drift=_mean(outcomes[CLEAN : CLEAN + 200]),
        accuracy_at_end=_mean(outcomes[-TAIL:]),
        accuracy_left_alone=evaluate(alone.predictor(), tail).accuracy,
        retrains=learned.retrains,
        promotions=learned.promotions,
        model_versions=learned.model_versions,
        latency_ms=learned.latency_ms,
        seconds=time.monotonic() - began,
        registry=str(settings.registry.dir),
    )


def _pass_on(stop: threading.Event, answered: threading.Event) -> None:
    stop.wait()
    answered.set()


class _Sender:
    """The producer in a thread, its failure kept for the main one."""

    def __init__(self, flow: Iterator[events.ProduceEvent]) -> None:
        self._flow = flow
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise here what ended the producer."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for _ in self._flow:
                pass
        except BaseException as error:  # noqa: BLE001  raised again by check
            self._failure = error


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
    """Publish the production version of `home` in `registry`; False where there is none that will do."""
    try:
        loaded = load(home, "production")
    except RegistryError:
        return False
    manifest = loaded.manifest
    if manifest.classes != dataset.classes or manifest.split.sha256 != split.sha256 or "stream" in manifest.split.seen:
        return False
    copy = publish_like(
        registry,
        loaded.model,
        manifest,
        settings=manifest.settings,
        metrics=manifest.metrics,
        parent=None,
        origin=manifest.origin,
    )
    registry.promote(copy.version, who="demo", why=f"copy of version {manifest.version} of {home.dir}")
    return True


def _mean(outcomes: list[bool]) -> float:
    return sum(outcomes) / len(outcomes)
