"""The real-time stream predictor."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch

from cifarctl import events
from cifarctl.errors import VersionNotFound
from cifarctl.flows.follow import AliasFollower
from cifarctl.flows.supervise import LearnerProcess
from cifarctl.models.predictor import Predictor, choose_device, choose_precision
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.settings import KafkaSettings, ServeSettings
from cifarctl.stream import clients, codecs
from cifarctl.stream.sink import AtLeastOnceSink
from cifarctl.stream.source import Source
from cifarctl.tally import Tally


def serve(
    registry: Registry,
    options: ServeSettings,
    kafka: KafkaSettings,
    *,
    learner: LearnerProcess | None = None,
    max_messages: int | None = None,
    idle_timeout: float | None = None,
    ready_file: Path | None = None,
    stop: threading.Event | None = None,
) -> Generator[events.ServeEvent, None, None]:
    """Predict what arrives on the images topic until told to stop; every input is answered at least once.

    A `learner` is started beside it, as a process of its own, and its events are passed on. Ends with a ServeResult
    when `stop` is set, after `max_messages` inputs, or when all assigned partitions have been read to their end for
    `idle_timeout` seconds.

    Raises:
        VersionNotFound, IntegrityError: there is no version to serve, or it fails its checks.
        BrokerError: no broker, or predictions are not accepted.
    """
    tally = Tally()
    loop = _loop(registry, options, kafka, learner, max_messages, idle_timeout, ready_file, stop, tally)
    with closing(loop):
        for event in loop:
            tally.update(event)
            yield event
    yield _result(tally, online=learner is not None)


def _loop(
    registry: Registry,
    options: ServeSettings,
    kafka: KafkaSettings,
    learner: LearnerProcess | None,
    max_messages: int | None,
    idle_timeout: float | None,
    ready_file: Path | None,
    stop: threading.Event | None,
    tally: Tally,
) -> Generator[events.ServeEvent, None, None]:
    """The loop itself; `tally` is brought up to date by the caller with every event."""
    # Half of the cores: the rest is for the Kafka client, the broker beside it and the learner. PyTorch's threads spin
    # while they wait for each other, so one too many costs far more than it brings.
    threads = options.threads or max(1, (os.cpu_count() or 1) // 2)
    torch.set_num_threads(threads)
    alias = registry.alias(options.alias)
    if alias is None:
        raise VersionNotFound(
            f"there is no {options.alias} version in {registry.dir}; train one first: `cifarctl train`"
        )
    loaded = load(registry, alias.version)
    predictor = _predictor(loaded, options)
    topics = clients.Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.predictions, topics.dead_letters])

    with ExitStack() as stack:
        follower = stack.enter_context(AliasFollower(registry, options.alias, options.alias_interval, alias.generation))
        source = stack.enter_context(Source(kafka, [topics.images]))
        sink = AtLeastOnceSink(kafka, source)
        if learner is not None:
            stack.enter_context(learner)
        yield events.ServeStarted(
            topic=topics.images,
            group=kafka.group_id,
            version=alias.version,
            model=loaded.manifest.model,
            classes=loaded.manifest.classes,
            precision=predictor.precision,
            threads=threads,
            online=learner is not None,
        )
        yield from _flattery(loaded)
        if ready_file is not None:
            ready_file.write_text(f"{os.getpid()}\n")
        idle_since: float | None = None
        waiting = False

        while not (stop is not None and stop.is_set()):
            if (found := follower.take()) is not None:
                swap = _swap(found, loaded)
                if isinstance(found, LoadedModel) and isinstance(swap, events.Swapped):
                    loaded, predictor = found, _predictor(found, options, like=predictor)
                    yield from _flattery(loaded)
                if swap is not None:
                    yield swap

            room = options.batch_size if max_messages is None else max_messages - tally.handled
            if room <= 0:
                break
            records = source.read(min(options.batch_size, room), options.max_wait_ms / 1000)
            if records:
                yield _answer(records, predictor, loaded, sink, topics, options, source.lag() or 0)
            if sink.due():
                sink.commit()

            if learner is not None:
                yield from learner.poll()
            if (source.last_error is not None) != waiting:
                waiting = not waiting
                if waiting:
                    yield events.Waiting(f"{kafka.bootstrap_servers} does not answer ({source.last_error})")
            idle = not records and source.drained
            idle_since = (idle_since or time.monotonic()) if idle else None
            if idle_timeout is not None and idle_since and time.monotonic() - idle_since >= idle_timeout:
                break

        sink.close()
    if learner is not None:
        yield from learner.poll()  # its last words


def _predictor(loaded: LoadedModel, options: ServeSettings, like: Predictor | None = None) -> Predictor:
    """The version ready to predict; `like` saves measuring again what a sister of the same architecture has shown."""
    normalisation = loaded.manifest.normalisation
    device = like.device if like else choose_device(options.device, "serve.device")
    model = loaded.model.to(device).to(memory_format=torch.channels_last)
    precision = (
        like.precision if like else choose_precision(options.precision, model, device, options.batch_size, train=False)
    )
    return Predictor(
        model,
        normalisation.mean,
        normalisation.std,
        device=device,
        precision=precision,
        batch_size=options.batch_size,
    )


def _flattery(loaded: LoadedModel) -> Iterator[events.Notice]:
    """Says so where the version has been trained on what `produce` streams."""
    if "stream" in loaded.manifest.split.seen:
        yield events.Notice(
            f"version {loaded.manifest.version} was trained on the images that `produce` streams: its accuracy flatters"
        )


def _swap(found: LoadedModel | tuple[int, str], current: LoadedModel) -> events.Swapped | events.SwapRefused | None:
    """What comes of a version that the alias names; None where it is the one that serves."""
    if not isinstance(found, LoadedModel):
        return events.SwapRefused(*found)
    old, new = current.manifest, found.manifest
    if new.version == old.version:
        return None
    if new.classes != old.classes:
        return events.SwapRefused(new.version, "it has other classes; restart serve to change them")
    return events.Swapped(old.version, new.version)


def _answer(
    records: Sequence[codecs.Record],
    predictor: Predictor,
    loaded: LoadedModel,
    sink: AtLeastOnceSink,
    topics: clients.Topics,
    options: ServeSettings,
    lag: int,
) -> events.BatchServed:
    """Every record becomes a prediction or a dead letter."""
    began = time.perf_counter()
    manifest = loaded.manifest
    batch, letters = codecs.decode(
        records,
        classes=len(manifest.classes),
        json_mean=options.json_mean,
        json_std=options.json_std,
    )
    confidence, predicted = torch.empty(0), torch.empty(0, dtype=torch.int64)
    if batch.ids:
        confidence, predicted = predictor(torch.from_numpy(batch.pixels)).max(dim=1)
    now = round(time.time() * 1000)
    for record, image_id, label, choice, certainty in zip(
        batch.records, batch.ids, batch.labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True
    ):
        key = image_id.encode()
        value = codecs.encode_prediction(
            id=image_id,
            label_predicted=choice,
            class_name=manifest.classes[choice],
            confidence=certainty,
            label=label,
            model_version=manifest.version,
            model_sha256=manifest.sha256,
            partition=record.partition,
            offset=record.offset,
            produced_at=record.timestamp_ms,
            predicted_at=now,
        )
        sink.send(topics.predictions, key, value)
    for letter in letters:
        sink.send(topics.dead_letters, *codecs.dead_letter_message(letter))
    sink.track(records)
    produced = np.array([record.timestamp_ms for record in batch.records], dtype=np.float64)
    return events.BatchServed(
        version=manifest.version,
        ids=batch.ids,
        labels=batch.labels,
        predicted=predicted.numpy(),
        confidence=confidence.numpy(),
        latency_ms=np.maximum(now - produced[produced >= 0], 0.0),
        dead_letters=[(letter.error, letter.message) for letter in letters],
        lag=lag,
        seconds=time.perf_counter() - began,
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
    )
    if not online:
        return result
    return events.OnlineServeResult(
        **vars(result),
        **tally.learner(),
    )
