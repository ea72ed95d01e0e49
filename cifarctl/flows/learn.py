"""The learner on Kafka: what it reads, when it saves, how it is told to stop."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count, groupby, repeat
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import data, events
from cifarctl.data import Images
from cifarctl.errors import BrokerError, CifarctlError, DataError, NotEnoughData, RegistryBusy, RegistryError
from cifarctl.flows.learner import Learner, learner_at_work
from cifarctl.flows.pace import Pace
from cifarctl.flows.shown import Shown
from cifarctl.online.join import Place
from cifarctl.online.labels import LabelJoin, Matched
from cifarctl.registry import Registry
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients, codecs, labels
from cifarctl.stream.codecs import Record
from cifarctl.stream.records import Partition
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source

READ = 256  # most records at once
WAIT = 0.2  # seconds to wait for them
SAVE_INTERVAL = 5.0  # seconds between checkpoints while examples arrive
STATUS_INTERVAL = 0.5  # seconds between two LearnerStatus events, which are also the heartbeat
ANSWER_INTERVAL = 0.2  # seconds between two looks for an answer
PARTS = 4  # of the examples that `retrain` learns from by hand
NOTICE_INTERVAL = 60.0  # seconds between two notices of the same kind


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

    with _learning(settings, step, canary=settings.serve.canary > 0) as examples:
        learner, source = examples.learner, examples.source
        yield learner.started()
        yield examples.status()
        saved = shown = time.monotonic()
        waiting = False
        requests = Requests(settings.registry.dir)
        try:
            while not stop.is_set():
                updates = learner.updates
                yield from examples.read()
                yield from learner.follow_alias()
                yield from _answer(requests, learner)
                if (trigger := learner.due()) is not None:  # in time, that is: what images make due is done by now
                    yield from learner.update(trigger)
                updated, now = learner.updates > updates, time.monotonic()
                if updated or (examples.unsaved and now - saved >= SAVE_INTERVAL):
                    examples.save()
                    saved = now
                if updated or now - shown >= STATUS_INTERVAL:
                    shown = now
                    yield examples.status()
                if (source.last_error is not None) != waiting:
                    waiting = not waiting
                    if waiting:
                        yield events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer")
        except Stopped:  # in the middle of an update: it is made again from the last checkpoint
            return
        if examples.unsaved:
            examples.save()


def rehearse(settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """As `once`, on a copy of the registry and without committing: what would come of it; nothing is changed.

    Raises:
        NotEnoughData: fewer than `online.min_examples` examples.
        RegistryBusy: a learner is at work, which reads the same messages.
    """
    folder = settings.registry.dir
    if learner_at_work(folder):
        raise RegistryBusy(
            f"a learner works on {folder}; stop it first, or leave out --dry-run and it is asked to learn"
        )
    with tempfile.TemporaryDirectory(prefix="cifarctl-rehearsal-") as temporary:
        copy = Path(temporary) / "registry"
        if folder.is_dir():
            shutil.copytree(folder, copy)
        registry = settings.registry.model_copy(update={"dir": copy})
        for event in once(settings.model_copy(update={"registry": registry}), stop, dry=True):
            if isinstance(event, events.RetrainResult):
                event = replace(event, challenger=event.challenger | {"version": None})
            yield event


def once(settings: Settings, stop: threading.Event, *, dry: bool = False) -> Iterator[events.LearnEvent]:
    """Learn from the labelled examples that have arrived since the last time; ends with a RetrainResult.

    They are taken in their order in `PARTS` parts, with an update after each, so that what has been learned from the
    ones before predicts the next and is judged by that. Where it has not won its trial by the end, the trial goes on
    the next time. Where another learner is at work, it is asked to learn from what it has got now. `dry`: nothing is
    saved, committed or sent.

    Raises:
        NotEnoughData: fewer than `online.min_examples` of them; they are kept for the next time.
        RegistryBusy: another learner was at work, and has ended without an answer.
    """

    def step() -> None:
        if stop.is_set():
            raise Stopped

    began = time.perf_counter()
    with ExitStack() as stack:
        try:
            examples = stack.enter_context(_learning(settings, step, dry=dry))
        except RegistryBusy:
            yield from _ask(settings, stop)
            return
        stack.enter_context(suppress(Stopped))
        learner = examples.learner
        yield learner.started()
        held = _Held(learner, settings.online.buffer_size)
        examples.teach, examples.updates = held.take, False
        yield from _catch_up(examples, settings, stop)
        if stop.is_set():
            return
        if held.count < settings.online.min_examples:
            yield from held.learn(0)
            examples.save()
            yield from _refuse(learner.not_enough(held.count))
            return
        results: list[events.RetrainResult] = []
        for event in held.learn(PARTS):
            if isinstance(event, events.RetrainResult):
                results.append(event)
            yield event
        examples.save()
        first = results[0]
        won = next((result for result in results if result.outcome == "promoted"), results[-1])
        promoted = learner.champion != first.champion["version"]
        decisive = won if promoted else results[-1]
        result = replace(
            decisive,
            outcome="promoted" if promoted else "rejected",
            examples=held.count,
            champion=decisive.champion | {"version": first.champion["version"]},
            challenger=decisive.challenger | {"version": learner.champion if promoted else None},
            seconds=time.perf_counter() - began,
        )
        requests = Requests(settings.registry.dir)
        for name in requests.claim():  # others who have asked meanwhile
            requests.answer(name, asdict(result))
        yield result


def _refuse(result: events.RetrainResult) -> Iterator[events.LearnEvent]:
    """Tell that there are too few examples, and how many, before the error that says so: scripts read it."""
    yield result
    raise NotEnoughData(f"{result.reasons[0]}; stream more, or lower online.min_examples")


def _answer(requests: Requests, learner: Learner) -> Iterator[events.LearnEvent]:
    """Learn now, once for all who have asked for it."""
    try:
        names = requests.claim()
        if not names:
            return
        result = learner.not_enough(learner.fresh)
        if learner.fresh >= learner.settings.min_examples:
            for event in learner.update("by hand"):
                if isinstance(event, events.RetrainResult):
                    result = event
                yield event
        for name in names:
            requests.answer(name, asdict(result))
    except RegistryError as error:  # the learner goes on all the same
        yield events.Notice(f"a request to learn cannot be answered: {error}")


def _ask(settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Let the learner that is at work learn; ends with its RetrainResult, or without one when `stop` is set."""
    requests = Requests(settings.registry.dir)
    name = requests.ask()
    yield events.Notice("a learner is at work on this registry: it is asked to learn now")
    try:
        while not stop.wait(ANSWER_INTERVAL):
            if (found := requests.fetch(name)) is not None:
                result = events.RetrainResult(**found)
                yield from _refuse(result) if result.outcome == "not_enough_data" else [result]
                return
            if not learner_at_work(settings.registry.dir):
                raise RegistryBusy("the learner that was at work has ended without an answer: try again")
    finally:
        requests.withdraw(name)


class _Held:
    """Examples that wait until their number is known; of more than `most` the oldest are taken in at once."""

    def __init__(self, learner: Learner, most: int) -> None:
        self._learner, self._most = learner, most
        self._waiting: deque[Matched] = deque()
        self._ids: set[str] = set(learner.buffer.ids)
        self._before = learner.fresh
        self._new = self._size = 0

    @property
    def count(self) -> int:
        """Examples since the last update, each id once."""
        return self._before + self._new

    def take(self, found: Matched) -> Iterator[events.LearnEvent]:
        """Keep examples."""
        self._new += len(set(found.ids) - self._ids)
        self._ids.update(found.ids)
        self._waiting.append(found)
        self._size += len(found.ids)
        while self._size > self._most:
            oldest = self._waiting.popleft()
            self._size -= len(oldest.ids)
            yield from _teach(self._learner, oldest, updates=False)

    def learn(self, parts: int) -> Iterator[events.LearnEvent]:
        """Take in all that wait, with an update after each of so many parts, of none with none."""
        part = -(-self._size // parts) if parts and self._size else self._size + 1
        left = part
        for found in self._waiting:
            start = 0
            while start < len(found.ids):
                now = slice(start, start + left)
                numbers = None if found.numbers is None else found.numbers[now]
                some = Matched(found.ids[now], found.pixels[now], found.labels[now], numbers)
                yield from _teach(self._learner, some, updates=False)
                start, left = start + len(some.ids), left - len(some.ids)
                if not left:
                    left = part
                    yield from self._learner.update("by hand")
        if parts and (left < part or not self._size):
            yield from self._learner.update("by hand")


def _teach(learner: Learner, found: Matched, *, updates: bool = True) -> Iterator[events.LearnEvent]:
    images = Images(torch.from_numpy(found.pixels), torch.from_numpy(found.labels))
    return learner.learn(found.ids, images, numbers=found.numbers, updates=updates)


def _catch_up(examples: Examples, settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Read all that has arrived."""
    shown, answered = 0.0, time.monotonic()
    while not examples.source.caught_up and not stop.is_set():
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
            yield examples.status()


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
def _learning(
    settings: Settings, on_step: Callable[[], None], *, dry: bool = False, canary: bool = False
) -> Iterator[Examples]:
    registry = Registry(settings.registry)
    dataset = data.load(settings.data)
    split = data.split(dataset.train.labels, settings.data.split, settings.data.split_seed)
    generator = torch.Generator().manual_seed(settings.online.seed)
    chosen = split.train[torch.randperm(len(split.train), generator=generator)[: settings.online.reference_size]]
    reference, validation = dataset.train.take(chosen), dataset.train.take(split.validation)
    classes, images = dataset.classes, split.sha256
    del dataset  # the learner keeps a sample only
    topics = clients.Topics.of(settings.kafka.topic_prefix)
    clients.ensure_topics(settings.kafka, [topics.images, topics.labels, topics.dead_letters])
    with ExitStack() as stack:
        learner = stack.enter_context(
            Learner(
                registry,
                settings.online,
                settings.serve.alias,
                reference=reference,
                validation=validation,
                canary=canary,
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
        group = f"{settings.kafka.group_id}.learner"
        gaps: list[str] = []  # to learn from what is left is all that can be done about them
        wanted = [topics.images, topics.labels]
        source = stack.enter_context(Source(settings.kafka, wanted, group_id=group, on_gap=gaps.append))
        yield Examples(learner, source, gaps, topics, settings, dry=dry)


class Examples:
    """The learner's way to the stream: joins images with late labels, and commits offsets only after it has saved.

    What is no label goes to the dead letters from here, as nobody else reads all labels and commits; what is no image
    goes there from `serve`.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        gaps: list[str],
        topics: clients.Topics,
        settings: Settings,
        *,
        dry: bool = False,
    ) -> None:
        """`dry`: nothing is saved, committed or sent."""
        self._dry = dry
        self.learner, self.source = learner, source
        #: What becomes of examples.
        self.teach: Callable[[Matched], Iterator[events.LearnEvent]] = partial(_teach, learner)
        #: Whether images that have no labels may make an update due.
        self.updates = True
        self._gaps = gaps
        self._topics, self._settings = topics, settings
        online = settings.online
        self._join = LabelJoin(wait_s=online.label_wait, max_mb=online.label_wait_mb)
        # What was learned from before the last restart is read again, where its neighbours were still waiting then.
        known = learner.buffer.ids
        self._join.settle(known, repeat(None, len(known)))
        self._pace = Pace()
        self._positions: dict[Partition, int] = {}  # the next offset to read
        self._shown = Shown.load(learner.reading)
        self._letters: Sender | None = None
        self._bad_labels = 0
        self._told: dict[str, tuple[int, float]] = {}  # of each kind of notice: the count told last, and when
        self.unsaved = False
        source.listen(self._forget, self._forget)

    def status(self) -> events.LearnerStatus:
        """Where the learner stands, and how many images wait for their label."""
        return replace(self.learner.status(), waiting=len(self._join))

    def read(self) -> Iterator[events.LearnEvent]:
        """Show the learner the next labelled images, and those that have met their label now."""
        lag, enough = self.source.lag(), self._settings.online.update_every
        if lag is not None and not enough < lag <= 2 * enough:  # in between it stays as it was
            if lag > enough and not self.learner.behind:
                yield events.Notice(f"{lag:,} messages have not been learned from: updates are made less often")
            self.learner.behind = lag > enough
        records = self.source.read(READ, WAIT)
        for record in records:
            self._positions[record.topic, record.partition] = record.offset + 1
        self.unsaved = self.unsaved or bool(records)
        yield from self._take_images([record for record in records if record.topic == self._topics.images])
        yield from self._take_labels([record for record in records if record.topic == self._topics.labels])
        self.source.hold(self._pace.after(records, self.source.assigned, self._join.fill))
        yield from self._losses()
        while self._gaps:
            yield events.Notice(f"{self._gaps.pop()}; the learner goes on with the oldest one there is")

    def save(self) -> None:
        """Checkpoint, then commit, but not beyond what still waits for its other half.

        After a crash, records between the two are read twice and known by their ids. When the broker does not answer,
        `unsaved` stays.
        """
        if self._dry:
            return
        self.learner.save(self._shown.dump(self._join.numbers))
        if self._letters is not None:
            delivered = self._letters.flush(self._settings.kafka.timeout_s)
            self._letters.raise_failed()
            if not delivered:
                return
        low = self._join.low_water(self._too_late_ms())
        offsets = {partition: min(offset, low.get(partition, offset)) for partition, offset in self._positions.items()}
        self.unsaved = not self.source.commit(offsets)
        if not self.unsaved:
            self._shown.committed(offsets)

    def _take_images(self, records: Sequence[Record]) -> Iterator[events.LearnEvent]:
        batch, _ = codecs.decode(
            records,
            classes=len(self.learner.classes),
            json_mean=self._settings.serve.json_mean,
            json_std=self._settings.serve.json_std,
        )
        # In the order of their arrival, however they were cut into batches: decisions depend on it.
        for known, places in groupby(range(len(batch.ids)), lambda place: batch.labels[place] >= 0):
            now = list(places)
            run = slice(now[0], now[-1] + 1)
            ids, pixels = batch.ids[run], batch.pixels[run]
            if known:
                self._join.settle(ids, batch.labels[run].tolist())
                for record in batch.records[run]:
                    self._shown.add(record)
                yield from self.teach(Matched(ids, pixels, batch.labels[run], None))
            else:
                yield from self._take_unlabelled(ids, pixels, batch.records[run])

    def _take_unlabelled(
        self, ids: Sequence[str], pixels: NDArray[np.uint8], records: Sequence[Record]
    ) -> Iterator[events.LearnEvent]:
        new = [self._shown.add(record) for record in records]
        number = count(self.learner.seen)
        numbers = [
            next(number) if is_new else self._shown.number(image_id, self.learner.seen)
            for image_id, is_new in zip(ids, new, strict=True)
        ]
        yield from self.learner.see(torch.from_numpy(pixels[new]), updates=self.updates)
        yield from self.teach(self._join.add_images(ids, pixels, numbers, map(_place, records)))

    def _take_labels(self, records: Sequence[Record]) -> Iterator[events.LearnEvent]:
        batch, letters = labels.decode(records, classes=len(self.learner.classes))
        for letter in () if self._dry else letters:
            if self._letters is None:
                self._letters = Sender(self._settings.kafka)
            self._letters.send(self._topics.dead_letters, *codecs.dead_letter_message(letter))
        self._bad_labels += len(letters)
        yield from self.teach(self._join.add_labels(batch.ids, batch.labels, map(_place, batch.records)))

    def _too_late_ms(self) -> int | None:
        """What was produced before this time has waited long enough; None while its label may be still unread."""
        lag = self.source.lag()
        if lag is None or lag > READ:
            return None
        return int((time.time() - self._settings.online.label_wait) * 1000)

    def _losses(self) -> Iterator[events.Notice]:
        """Says what does not become an example, now and then."""
        topic = self._topics.labels
        for number, story in (
            (self._bad_labels, f"messages on {topic} are no labels; they go to {self._topics.dead_letters}"),
            (
                self._join.conflicting_labels,
                "labels contradict the first one of the same image, which counts",
            ),
            (
                self._join.displaced_images,
                "images were given up before their label came: online.label_wait_mb is too small for online.label_wait",
            ),
        ):
            told, at = self._told.get(story, (0, -NOTICE_INTERVAL))
            if number > told and time.monotonic() - at >= NOTICE_INTERVAL:
                self._told[story] = number, time.monotonic()
                yield events.Notice(f"{number:,} {story}")

    def _forget(self, partitions: frozenset[Partition]) -> None:
        """Whoever has these partitions now reads on from where we have committed."""
        self._shown.keep(self._join.numbers)
        self._join.forget(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)


def _place(record: Record) -> Place:
    return Place(record.topic, record.partition, record.offset, record.timestamp_ms)
