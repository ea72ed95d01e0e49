"""The real-time stream predictor."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from cifarctl import cpus, events
from cifarctl.errors import VersionNotFound
from cifarctl.models.threads import use as use_threads
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving.alias_watcher import Ready
from cifarctl.serving.backend_selection import Prepared, prepare
from cifarctl.serving.clocks import Clocks
from cifarctl.serving.in_service import ModelsInService, notices
from cifarctl.serving.learner_process import LearnerProcess
from cifarctl.serving.pipeline import InferencePipeline
from cifarctl.settings import KafkaSettings, Settings
from cifarctl.stream import clients, rights
from cifarctl.stream.answering import Sink
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.label_records import label_reader
from cifarctl.stream.lookout import Lookout
from cifarctl.stream.sink import PENDING_HIGH, open_sink
from cifarctl.stream.source import Source
from cifarctl.stream.unmatched_labels import UnmatchedLabels
from cifarctl.tally import Tally

LONGEST_WAIT_S = 0.1  # for a next message: signals, swaps and the learner's events are looked at in between
BLOCKED_WAIT_S = 0.02  # while nothing may be read
COMMIT_WAIT_S = 1.0  # what takes longer is gone on with in the next round
STATUS_INTERVAL_S = 0.5
#: What the learner's process does. Named, not imported: what learning needs is no business of the predictor.
LEARNER = "cifarctl.flows.learn:run_process"


def serve(
    settings: Settings,
    *,
    online: bool = False,
    max_messages: int | None = None,
    idle_timeout: float | None = None,
    ready_file: Path | None = None,
    stop: threading.Event | None = None,
) -> Generator[events.ServeEvent, None, None]:
    """Predict what arrives on the images topic until told to stop; every input is answered by `kafka.delivery`.

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
    tally, clocks = Tally(), Clocks()
    loop = _loop(registry, settings, learner, max_messages, idle_timeout, ready_file, stop or threading.Event())
    with closing(loop):
        for event in loop:
            tally.update(event)
            yield event
            if isinstance(event, events.BatchServed):
                yield from clocks.look(event)
    yield _result(tally, online=online)


def _require_learnable(registry: Registry, settings: Settings) -> None:
    """Refuse what no learner can start from: it would be tried again and again."""
    from cifarctl.online.judgeable import require_judgeable  # here: the predictor alone needs neither
    from cifarctl.online.strategies import require

    require(settings.online.strategy)
    if (alias := registry.alias(settings.serve.alias)) is not None:
        require_judgeable(registry.manifest(alias.version), settings.online)


def _loop(
    registry: Registry,
    settings: Settings,
    learner: LearnerProcess | None,
    max_messages: int | None,
    idle_timeout: float | None,
    ready_file: Path | None,
    stop: threading.Event,
) -> Generator[events.ServeEvent, None, None]:
    """The loop itself: read, submit to the model, send what it is through with, commit."""
    options, kafka, label_wait = settings.serve, settings.kafka, settings.online.label_wait
    # Half of the cores: the rest is for the Kafka client, the broker beside it and the learner. PyTorch's threads spin
    # while they wait for each other, so one too many costs far more than it brings.
    threads = use_threads(options.threads or max(1, cpus.count() // 2))
    alias = registry.alias(options.alias)
    if alias is None:
        raise VersionNotFound(
            f"there is no {options.alias} version in {registry.dir}; train one first: `cifarctl train`"
        )
    loaded = load(registry, alias.version)
    prepared = prepare(loaded, registry, options, threads)
    topics = clients.Topics.of(kafka.topic_prefix)
    rights.ensure_topics(
        kafka, {topics.images: ["Read"], topics.predictions: ["Write"], topics.dead_letters: ["Write"]}
    )

    def prepare_another(found: LoadedModel, like: Prepared) -> Prepared:
        return prepare(found, registry, options, threads, like=like)

    with ExitStack() as stack:
        current = Ready(loaded, prepared)
        duty = stack.enter_context(ModelsInService(registry, options, alias, current, prepare_another))
        classes = loaded.manifest.classes
        labels = stack.enter_context(label_reader(kafka, classes=len(classes), wait_s=label_wait))
        late_labels = DelayedLabels(label_wait)
        source = stack.enter_context(Source(kafka, [topics.images], progress="commits"))
        sink = stack.enter_context(closing(open_sink(kafka, source)))
        answers = stack.enter_context(InferencePipeline(source, sink, topics, kafka, options, duty.model))
        strays = UnmatchedLabels(late_labels, topics.labels, label_wait)
        partitions = clients.partition_counts(kafka)[topics.images]
        status = _Status(source, sink, kafka, strays)
        lookout = stack.enter_context(Lookout(kafka))
        if learner is not None:
            stack.enter_context(learner)
        yield events.ServeStarted(
            topic=topics.images,
            group=kafka.group_id,
            version=alias.version,
            model=loaded.manifest.model,
            classes=classes,
            backend=prepared.backend.name,
            precision=prepared.backend.precision,
            threads=threads,
            delivery=sink.delivery,
            online=learner is not None,
            canary=options.canary,
        )
        yield from notices(current)
        if unlabelled := rights.lacking(kafka, {topics.labels: ["Read"]}):
            yield events.Notice(f"labels are not read: {kafka.bootstrap_servers} does not permit {unlabelled[0]}")
        if ready_file is not None:
            ready_file.write_text(f"{os.getpid()}\n")
        handled = 0
        idle_since: float | None = None

        while not stop.is_set() and handled != max_messages:
            yield from duty.changes()
            answers.model, answers.canary = duty.model, duty.canary

            room = options.batch_size if max_messages is None else max_messages - handled - answers.open
            blocked = status.blocked()
            source.hold(source.assigned if blocked else frozenset())
            wait = BLOCKED_WAIT_S if blocked else LONGEST_WAIT_S if answers.idle else 0.0
            wanted = 0 if answers.full and not blocked else min(options.batch_size, room, sink.portion)
            records = source.read(wanted, wait, options.max_wait_ms / 1000) if wanted > 0 else []
            if records:
                answers.submit(records)
                yield from answers.doubts()
            answers.finish(wait=not records)
            if sink.due() or sink.busy or (room <= 0 and answers.idle):
                answers.commit(COMMIT_WAIT_S)
            for event in answers.committed():
                handled += len(event.ids) + len(event.dead_letters)
                yield event
                matched = late_labels.add(event.ids, event.labels, event.predicted, event.version, event.trial)
                if matched is not None:
                    yield matched
            if (matched := late_labels.label(labels.read())) is not None:
                yield matched

            if learner is not None:
                yield from learner.poll()
            yield from status.news()
            yield from map(events.Notice, lookout.news())
            drained = source.drained and not answers.open
            if (notice := strays.look(drained=drained, whole=len(source.assigned) >= partitions)) is not None:
                yield notice
            idle_since = (idle_since or time.monotonic()) if drained and not records else None
            if idle_timeout is not None and idle_since and time.monotonic() - idle_since >= idle_timeout:
                break

        answers.settle(kafka.timeout_s)
        yield from answers.committed()
        yield status.now()
    if learner is not None:
        yield from learner.poll()  # its last words


class _Status:
    """What is to be said of the stream itself, when it changes and now and then."""

    def __init__(self, source: Source, sink: Sink, kafka: KafkaSettings, strays: UnmatchedLabels) -> None:
        self._source, self._sink, self._kafka, self._strays = source, sink, kafka, strays
        self._waiting = self._blocked = False
        self._busy_since: float | None = None
        self._rebalances = 0
        self._next = 0.0

    def blocked(self) -> bool:
        """Whether nothing more should be read: the broker takes no answers, or not as fast as they come."""
        limit = PENDING_HIGH // 2 if self._blocked else PENDING_HIGH
        self._blocked = self._sink.busy or self._sink.pending > limit
        return self._blocked

    def news(self) -> Iterator[events.ServeEvent]:
        """Waiting when it begins, Assigned after a rebalance, StreamStatus every half second, the sink's notices."""
        now = time.monotonic()
        yield from map(events.Notice, self._sink.news())
        self._busy_since = (self._busy_since or now) if self._sink.busy else None
        hung = self._busy_since is not None and now - self._busy_since > self._kafka.timeout_s
        reason = self._source.last_error or ("a commit is pending" if hung else None)
        if (reason is not None) != self._waiting:
            self._waiting = reason is not None
            if self._waiting:
                yield events.Waiting(f"{self._kafka.bootstrap_servers} does not answer ({reason})")
        if self._source.rebalances != self._rebalances:
            self._rebalances = self._source.rebalances
            yield events.Assigned(tuple(sorted(number for _, number in self._source.assigned)), self._rebalances)
        if now >= self._next:
            self._next = now + STATUS_INTERVAL_S
            yield self.now()

    def now(self) -> events.StreamStatus:
        """Where the stream stands."""
        return events.StreamStatus(
            lag=self._source.lag(),
            queue=self._sink.pending,
            commits=self._sink.commits,
            undone=self._sink.undone,
            paused=self._blocked,
            labels_unmatched=self._strays.count,
        )


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
    return events.OnlineServeResult(
        **vars(result),
        **tally.learner(),
    )
