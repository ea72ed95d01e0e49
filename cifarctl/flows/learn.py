"""The learner on Kafka: what it reads, when it saves, how it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection

import torch

from cifarctl import data, events
from cifarctl.data import Images
from cifarctl.errors import BrokerError, CifarctlError, DataError, NotEnoughData
from cifarctl.flows.learner import Learner
from cifarctl.registry import Registry
from cifarctl.settings import ServeSettings, Settings
from cifarctl.stream import clients, codecs
from cifarctl.stream.sink import AtLeastOnceSink
from cifarctl.stream.source import Source

READ = 256  # most records at once
WAIT = 0.2  # seconds to wait for them
SAVE_INTERVAL = 5.0  # seconds between checkpoints while examples arrive
STATUS_INTERVAL = 0.5  # seconds between two LearnerStatus events, which are also the heartbeat


class Stopped(Exception):
    """Raised from within an update when the learner is told to stop."""


def follow(
    settings: Settings, stop: threading.Event, on_step: Callable[[], None] = lambda: None
) -> Iterator[events.LearnEvent]:
    """Learn from what arrives until `stop` is set.

    Raises:
        BrokerError, RegistryError, DataError: what the learner needs is not there.
    """

    def step() -> None:
        on_step()
        if stop.is_set():
            raise Stopped

    with _learning(settings, step) as examples:
        learner, source = examples.learner, examples.source
        yield learner.started()
        yield learner.status()
        saved = shown = time.monotonic()
        waiting = False
        try:
            while not stop.is_set():
                yield from examples.read()
                yield from learner.follow_alias()
                trigger = learner.due()
                if trigger is not None:
                    yield from learner.update(trigger)
                now = time.monotonic()
                if trigger is not None or (examples.unsaved and now - saved >= SAVE_INTERVAL):
                    examples.save()
                    saved = now
                if trigger is not None or now - shown >= STATUS_INTERVAL:
                    shown = now
                    yield learner.status()
                if (source.last_error is not None) != waiting:
                    waiting = not waiting
                    if waiting:
                        yield events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer")
        except Stopped:
            pass
        if examples.unsaved:
            examples.save()


def once(settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """One challenger from the labelled examples that have arrived since the last one.

    Raises:
        NotEnoughData: fewer than `online.min_examples` of them; they are kept for the next time.
    """

    def step() -> None:
        if stop.is_set():
            raise Stopped

    with _learning(settings, step) as examples:
        learner = examples.learner
        yield learner.started()
        shown, answered = 0.0, time.monotonic()
        while not examples.source.caught_up:
            if stop.is_set():
                return
            yield from examples.read()
            if examples.source.last_error is None:
                answered = time.monotonic()
            elif time.monotonic() - answered > settings.kafka.timeout_s:
                raise BrokerError(
                    f"{settings.kafka.bootstrap_servers} has stopped answering ({examples.source.last_error}); "
                    "try again when kafka.bootstrap_servers can be reached"
                )
            if time.monotonic() - shown >= STATUS_INTERVAL:
                shown = time.monotonic()
                yield learner.status()
        examples.save()
        fresh, wanted = learner.fresh, settings.online.min_examples
        if fresh < wanted:
            yield learner.not_enough()
            raise NotEnoughData(
                f"{fresh} labelled examples since the last update, {wanted} are wanted; stream more, or lower "
                "online.min_examples"
            )
        try:
            yield from learner.update("by hand")
        except Stopped:
            return
        examples.save()


def run_process(settings: Settings, pipe: Connection) -> None:
    """The learner's own process: events go into `pipe`, its other end closing means stop.

    Interrupts of the terminal are the parent's affair; it closes the pipe when it is time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(settings.online.threads)
    if settings.online.niceness and hasattr(os, "nice"):
        os.nice(settings.online.niceness)
    stop = threading.Event()

    def follow_parent() -> None:
        with suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    threading.Thread(target=follow_parent, daemon=True).start()
    beat = time.monotonic()

    def heartbeat() -> None:
        nonlocal beat
        if time.monotonic() - beat >= STATUS_INTERVAL:
            beat = time.monotonic()
            pipe.send(None)

    working = threading.Event()

    def say_starting() -> None:  # loading images may take minutes, and is no hanging
        with suppress(OSError):
            while not working.wait(STATUS_INTERVAL):
                pipe.send(None)

    starting = threading.Thread(target=say_starting, daemon=True)
    starting.start()
    code, last_words = 0, None
    try:
        for event in follow(settings, stop, heartbeat):
            if not working.is_set():  # two threads must not write into the pipe at once
                working.set()
                starting.join()
            pipe.send(event)
    except OSError:
        pass  # the parent has gone
    except CifarctlError as error:
        code, last_words = error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001  the parent tells it in a line; nobody reads a traceback here
        code, last_words = 1, f"unexpected {type(error).__name__}: {error}"
    working.set()
    starting.join()
    with suppress(OSError):
        if last_words:
            pipe.send(events.Notice(f"learner: {last_words}"))
        pipe.close()
    raise SystemExit(code)


@contextmanager
def _learning(settings: Settings, on_step: Callable[[], None]) -> Iterator[Examples]:
    registry = Registry(settings.registry)
    dataset = data.load(settings.data)
    split = data.split(dataset.train.labels, settings.data.split, settings.data.split_seed)
    generator = torch.Generator().manual_seed(settings.online.seed)
    chosen = split.train[torch.randperm(len(split.train), generator=generator)[: settings.online.reference_size]]
    reference, validation = dataset.train.take(chosen), dataset.train.take(split.validation)
    classes, images = dataset.classes, split.sha256
    del dataset  # the learner keeps a sample only
    topic = clients.Topics.of(settings.kafka.topic_prefix).images
    clients.ensure_topics(settings.kafka, [topic])
    with ExitStack() as stack:
        learner = stack.enter_context(
            Learner(
                registry,
                settings.online,
                settings.serve.alias,
                reference=reference,
                validation=validation,
                on_step=on_step,
            )
        )
        if learner.classes != classes:
            raise DataError(
                f"version {learner.champion} knows the classes {', '.join(learner.classes[:3])}, ..., the data set has "
                f"{', '.join(classes[:3])}, ...; set data.source and data.dir as for its training"
            )
        if learner.split != images:
            raise DataError(
                f"version {learner.champion} was trained on another split of the images, so it may have seen "
                "the validation images; set data.source, data.split and data.split_seed as for its training"
            )
        source = stack.enter_context(Source(settings.kafka, [topic], group_id=f"{settings.kafka.group_id}.learner"))
        yield Examples(learner, source, AtLeastOnceSink(settings.kafka, source), settings.serve)


class Examples:
    """The learner's way to the stream: reads for it, and commits offsets only after it has saved."""

    def __init__(self, learner: Learner, source: Source, sink: AtLeastOnceSink, serve: ServeSettings) -> None:
        self.learner, self.source = learner, source
        self._sink, self._serve = sink, serve
        self._unsaved: dict[tuple[str, int], codecs.Record] = {}  # the last record of each partition

    @property
    def unsaved(self) -> bool:
        """Whether something was read since the last `save`."""
        return bool(self._unsaved)

    def read(self) -> Iterator[events.LearnEvent]:
        """Show the learner the next labelled images."""
        records = self.source.read(READ, WAIT)
        self._unsaved |= {(record.topic, record.partition): record for record in records}
        batch, _ = codecs.decode(
            records,
            classes=len(self.learner.classes),
            json_mean=self._serve.json_mean,
            json_std=self._serve.json_std,
        )
        known = batch.labels >= 0
        ids = [image_id for image_id, keep in zip(batch.ids, known.tolist(), strict=True) if keep]
        images = Images(torch.from_numpy(batch.pixels[known]), torch.from_numpy(batch.labels[known]))
        yield from self.learner.observe(ids, images)

    def save(self) -> None:
        """Checkpoint, then commit: after a crash in between records are read twice, and known by their ids."""
        self.learner.save()
        self._sink.track(self._unsaved.values())
        self._sink.commit()
        self._unsaved.clear()
