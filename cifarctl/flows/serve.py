"""``cifarctl serve``: predicts the images of a stream in real time.

`serving.pipeline` shows a message's way from the images topic to its committed answer; this is the loop around it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cifarctl import cpus, events
from cifarctl.errors import VersionNotFound
from cifarctl.models.threads import use as use_threads
from cifarctl.registry import Alias, Registry
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving.alias_watcher import Ready
from cifarctl.serving.backend_selection import Prepared, prepare
from cifarctl.serving.clocks import Clocks
from cifarctl.serving.in_service import ModelsInService, notices
from cifarctl.serving.learner_process import LearnerProcess
from cifarctl.serving.pipeline import InferencePipeline
from cifarctl.serving.stream_watch import StreamWatch
from cifarctl.settings import Settings
from cifarctl.stream import clients, rights
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.delivery import open_sink
from cifarctl.stream.label_records import label_reader
from cifarctl.stream.source import Source
from cifarctl.stream.topic_check import TopicCheck
from cifarctl.stream.unmatched_labels import UnmatchedLabels
from cifarctl.tally import Tally

#: The function that the learner's process runs. Named, not imported: the predictor needs no learning code.
LEARNER = "cifarctl.flows.learner_child:run"


@dataclass(frozen=True)
class _Options:
    """One run of `serve`; the limits are those of its arguments."""

    settings: Settings
    registry: Registry
    learner: LearnerProcess | None
    max_messages: int | None
    idle_timeout: float | None
    ready_file: Path | None
    stop: threading.Event


def serve(
    settings: Settings,
    *,
    online: bool = False,
    max_messages: int | None = None,
    idle_timeout: float | None = None,
    ready_file: Path | None = None,
    stop: threading.Event | None = None,
) -> Generator[events.ServeEvent, None, None]:
    """Predict the messages of the images topic until asked to stop; every input is answered by `kafka.delivery`.

    The version is that of the alias `serve.alias` in the registry. With `online` a learner is started beside it, as a
    process of its own, and its events are passed on. `ready_file` is written once the model is loaded and the topic
    subscribed. Ends with a ServeResult when `stop` is set, after `max_messages` inputs, or when all assigned partitions
    have been read to their end for `idle_timeout` seconds. Labels that come within `online.label_wait` seconds of their
    image, on the labels topic, count for the accuracy.

    Raises:
        VersionNotFound, IntegrityError: there is no version to serve, or it fails its checks.
        BrokerError: no broker, predictions are not accepted, or images have aged out unread.
        SettingsError: the backend that is asked for is not usable or does not agree with the model, or the learner's
            strategy does not exist.
        DataError: the learner would start from a version that was trained on all images: nothing is left to judge by.

    Example:
        The environment names a broker, and five images wait on its images topic.

        >>> from cifarctl import Settings, serve
        >>> from cifarctl.events import BatchServed
        >>> answers = {}
        >>> for event in serve(Settings(), max_messages=5):
        ...     if isinstance(event, BatchServed):
        ...         answers.update(zip(event.ids, event.predicted.tolist()))
        >>> len(answers)
        5
        >>> event.predicted, event.dead_lettered  # the last one is the result
        (5, 0)
    """
    registry = Registry(settings.registry)
    if online:
        _require_learnable(registry, settings)
    learner = LearnerProcess(settings, LEARNER) if online else None
    options = _Options(settings, registry, learner, max_messages, idle_timeout, ready_file, stop or threading.Event())
    tally, clocks = Tally(), Clocks()
    with closing(_loop(options)) as loop:
        for event in loop:
            tally.update(event)
            yield event
            if isinstance(event, events.BatchServed):
                yield from clocks.look(event)
    yield _result(tally, online=online)


def _require_learnable(registry: Registry, settings: Settings) -> None:
    """Refuse a version that no learner can start from: the learner would restart forever."""
    from cifarctl.online.judgeable import require_judgeable  # here: the predictor alone needs neither
    from cifarctl.online.strategies import require

    require(settings.online.strategy)
    if (alias := registry.alias(settings.serve.alias)) is not None:
        require_judgeable(registry.manifest(alias.version), settings.online)


def _loop(options: _Options) -> Generator[events.ServeEvent, None, None]:
    # Half of the cores: the rest is for the Kafka client, the broker and the learner. PyTorch's threads spin while they
    # wait for each other, so one too many costs far more than it gains.
    threads = use_threads(options.settings.serve.threads or max(1, cpus.count() // 2))
    registry, alias = options.registry, options.registry.alias(options.settings.serve.alias)
    if alias is None:
        raise VersionNotFound(
            f"there is no {options.settings.serve.alias} version in {registry.dir}; train one first: `cifarctl train`"
        )
    loaded = load(registry, alias.version)
    first = Ready(loaded, prepare(loaded, registry, options.settings.serve, threads))
    with ExitStack() as stack:
        service = _Service(options, alias, first, threads, stack)
        yield from service.started()
        while not options.stop.is_set() and not service.finished:
            yield from service.turn()
        yield from service.settled()
    if options.learner is not None:
        yield from options.learner.poll()  # its last words


class _Service:
    """The parts of a running `serve`, opened on an ExitStack, and one turn of its loop."""

    def __init__(self, options: _Options, alias: Alias, first: Ready, threads: int, stack: ExitStack) -> None:
        """`first` is the version that `alias` names."""

        def prepare_successor(found: LoadedModel, like: Prepared) -> Prepared:
            return prepare(found, options.registry, options.settings.serve, threads, like=like)

        kafka, label_wait = options.settings.kafka, options.settings.online.label_wait
        self._options, self._first, self._threads = options, first, threads
        self._topics = topics = clients.Topics.of(kafka.topic_prefix)
        rights.ensure_topics(
            kafka, {topics.images: ["Read"], topics.predictions: ["Write"], topics.dead_letters: ["Write"]}
        )
        self._models = stack.enter_context(
            ModelsInService(options.registry, options.settings.serve, alias, first, prepare_successor)
        )
        classes = len(first.loaded.manifest.classes)
        self._labels = stack.enter_context(label_reader(kafka, classes=classes, wait_s=label_wait))
        self._late_labels = DelayedLabels(label_wait)
        self._source = stack.enter_context(Source(kafka, [topics.images], progress="commits"))
        self._sink = stack.enter_context(closing(open_sink(kafka, self._source)))
        self._pipeline = stack.enter_context(
            InferencePipeline(self._source, self._sink, topics, kafka, options.settings.serve, self._models.model)
        )
        self._unmatched = UnmatchedLabels(self._late_labels, topics.labels, label_wait)
        self._partitions = clients.partition_counts(kafka)[topics.images]
        self._watch = StreamWatch(self._source, self._sink, kafka, self._pipeline.backpressure, self._unmatched)
        self._topic_check = stack.enter_context(TopicCheck(kafka))
        if options.learner is not None:
            stack.enter_context(options.learner)
        self._handled = 0  # inputs whose answers are committed
        self._idle_since: float | None = None

    @property
    def finished(self) -> bool:
        """Whether the inputs or the idle time that the options allow are used up."""
        limit, since = self._options.idle_timeout, self._idle_since
        idle = limit is not None and since is not None and time.monotonic() - since >= limit
        return idle or self._handled == self._options.max_messages

    def started(self) -> Iterator[events.ServeEvent]:
        """ServeStarted, and notices of problems found at the start."""
        options, kafka, backend = self._options, self._options.settings.kafka, self._first.prepared.backend
        manifest = self._first.loaded.manifest
        yield events.ServeStarted(
            topic=self._topics.images,
            group=kafka.group_id,
            version=manifest.version,
            model=manifest.model,
            classes=manifest.classes,
            backend=backend.name,
            precision=backend.precision,
            threads=self._threads,
            delivery=self._sink.delivery,
            online=options.learner is not None,
            canary=options.settings.serve.canary,
        )
        yield from notices(self._first)
        if unlabelled := rights.lacking(kafka, {self._topics.labels: ["Read"]}):
            yield events.Notice(f"labels are not read: {kafka.bootstrap_servers} does not permit {unlabelled[0]}")
        if options.ready_file is not None:
            options.ready_file.write_text(f"{os.getpid()}\n")

    def turn(self) -> Iterator[events.ServeEvent]:
        """Take the models in service, advance the batches, match labels, and look at everything around."""
        yield from self._models.changes()
        self._pipeline.model, self._pipeline.canary = self._models.model, self._models.canary
        limit, handled = self._options.max_messages, self._handled
        for event in self._pipeline.advance(None if limit is None else limit - handled):
            yield event
            if isinstance(event, events.BatchServed):
                yield from self._count(event)
        if (matched := self._late_labels.label(self._labels.read())) is not None:
            yield matched
        if self._options.learner is not None:
            yield from self._options.learner.poll()
        yield from self._watch.news()
        yield from map(events.Notice, self._topic_check.news())
        drained = self._source.drained and not self._pipeline.open
        whole = len(self._source.assigned) >= self._partitions
        if (notice := self._unmatched.look(drained=drained, whole=whole)) is not None:
            yield notice
        idle = drained and self._handled == handled
        self._idle_since = (self._idle_since or time.monotonic()) if idle else None

    def settled(self) -> Iterator[events.ServeEvent]:
        """Commit the remaining work, and report the final state of the stream."""
        self._pipeline.settle(self._options.settings.kafka.timeout_s)
        yield from self._pipeline.committed()
        yield self._watch.status()

    def _count(self, batch: events.BatchServed) -> Iterator[events.LabelsMatched]:
        self._handled += len(batch.ids) + len(batch.dead_letters)
        matched = self._late_labels.add(batch.ids, batch.labels, batch.predicted, batch.version, batch.trial)
        if matched is not None:
            yield matched


def _result(tally: Tally, *, online: bool) -> events.ServeResult:
    result = events.ServeResult(
        predicted=tally.predicted,
        dead_lettered=tally.dead_lettered,
        labelled=tally.labelled,
        accuracy=tally.accuracy,
        seconds=tally.seconds,
        messages_per_second=tally.handled / max(tally.seconds, 1e-9),
        latency_ms=tally.latencies.summary(),
        model_versions=tally.versions,
        swaps=tally.swaps,
        by_version=tally.by_version,
        latency_left_out=tally.latencies.left_out,
        labels_unmatched=tally.labels_unmatched,
    )
    if not online:
        return result
    return events.OnlineServeResult(**vars(result), **tally.learner())
