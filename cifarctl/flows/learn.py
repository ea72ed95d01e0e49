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
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, groupby, repeat
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import data, events
from cifarctl.data import Images
from cifarctl.errors import (
    BrokerError,
    CifarctlError,
    DataError,
    NotEnoughData,
    RegistryBusy,
    RegistryError,
    Superseded,
)
from cifarctl.flows.budget import Budget
from cifarctl.flows.learner import Learner
from cifarctl.flows.overload import Overload
from cifarctl.flows.pace import Pace
from cifarctl.flows.seat import RegistrySeat, Seat, open_seat
from cifarctl.flows.served import Served
from cifarctl.flows.shown import MOST, Shown
from cifarctl.online.join import Place
from cifarctl.online.labels import LabelJoin, Matched
from cifarctl.registry import Move, Registry
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients, codecs, labels, positions
from cifarctl.stream.codecs import Record
from cifarctl.stream.predictions import Prediction, prediction_reader
from cifarctl.stream.records import Partition
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source
from cifarctl.stream.tail import Tail

READ = 256  # most records at once
WAIT = 0.2  # seconds to wait for them, or for the seat
JOINING = 5.0  # seconds until it is clear that another learner has the seat
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
    """Learn from what arrives until `stop` is set; stand by as long as another learner is at work.

    Raises:
        BrokerError, RegistryError, DataError: what the learner needs is not there.
    """
    material = Material.of(settings)
    with open_seat(settings) as seat:
        budget = Budget(settings.online.cpu_budget) if settings.online.cpu_budget else None

        def look() -> None:
            on_step()
            if stop.is_set():
                raise Stopped
            _require(seat)

        def step() -> None:
            look()
            if budget is not None:
                budget.keep(look)

        began, told = time.monotonic(), False
        while not stop.is_set():
            on_step()
            if not seat.wait(WAIT):
                if not told and time.monotonic() - began >= JOINING:
                    told = True
                    if seat.trouble is not None:
                        yield events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer ({seat.trouble})")
                    else:
                        yield events.Notice("another learner is at work: this one stands by")
                continue
            try:
                yield from _work(settings, material, seat, stop, step)
            except Stopped:  # in the middle of an update: it is made again from the last checkpoint
                return
            except Superseded as reason:
                yield events.Notice(f"{reason}: it stands by, and goes on from the last checkpoint")
                began, told = time.monotonic(), False


def _work(
    settings: Settings, material: Material, seat: Seat, stop: threading.Event, step: Callable[[], None]
) -> Iterator[events.LearnEvent]:
    """Learn as long as the seat is held and `stop` is not set."""
    with _learning(settings, material, seat, step, canary=settings.serve.canary > 0) as examples:
        learner, source = examples.learner, examples.source
        yield learner.started()
        yield examples.status()
        saved = shown = time.monotonic()
        waiting = False
        requests = Requests(settings.registry.dir)
        while not stop.is_set():
            updates = learner.updates
            yield from examples.read()
            _require(seat)
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
        if examples.unsaved:
            examples.save()


def _require(seat: Seat) -> None:
    if not seat.held:
        raise Superseded("this learner does not hold its seat any more")


def rehearse(settings: Settings, stop: threading.Event, *, since_ms: int | None = None) -> Iterator[events.LearnEvent]:
    """As `once`, on a copy of the registry and without committing: what would come of it; nothing is changed.

    Raises:
        NotEnoughData: fewer than `online.min_examples` examples.
        RegistryBusy: a learner is at work, which reads the same messages.
    """
    folder = settings.registry.dir
    with open_seat(settings) as seat:
        if seat.taken:
            raise RegistryBusy(
                f"a learner works on {folder}; stop it first, or leave out --dry-run and it is asked to learn"
            )
    with tempfile.TemporaryDirectory(prefix="cifarctl-rehearsal-") as temporary:
        copy = Path(temporary) / "registry"
        if folder.is_dir():
            shutil.copytree(folder, copy)
        registry = settings.registry.model_copy(update={"dir": copy})
        for event in once(settings.model_copy(update={"registry": registry}), stop, since_ms=since_ms, dry=True):
            if isinstance(event, events.RetrainResult):
                event = replace(event, challenger=event.challenger | {"version": None})
            yield event


def once(
    settings: Settings, stop: threading.Event, *, since_ms: int | None = None, dry: bool = False
) -> Iterator[events.LearnEvent]:
    """Learn from the labelled examples that have arrived since the last time; ends with a RetrainResult.

    They are taken in their order in `PARTS` parts, with an update after each, so that what has been learned from the
    ones before predicts the next and is judged by that. Where it has not won its trial by the end, the trial goes on
    the next time. Where another learner is at work, it is asked to learn from what it has got now. With `since_ms`
    (epoch milliseconds) they are those produced since then, and it begins anew from the version in production, whatever
    was learned before. `dry`: nothing is saved, committed or sent.

    Raises:
        NotEnoughData: fewer than `online.min_examples` of them; they are kept for the next time.
        RegistryBusy: another learner was at work, and has ended without an answer; or is, and should begin anew.
        Superseded: another learner has taken over.
    """

    def step() -> None:
        if stop.is_set():
            raise Stopped

    began = time.perf_counter()
    with ExitStack() as stack:
        seat = RegistrySeat(Registry(settings.registry)) if dry else stack.enter_context(open_seat(settings))
        if seat.taken or not seat.wait(settings.kafka.timeout_s):
            if since_ms is not None:
                raise RegistryBusy(
                    f"a learner works on {settings.registry.dir} and goes on from what it has learned: stop it first, "
                    "or leave out --since and it is asked to learn"
                )
            yield from _ask(settings, seat, stop)
            return
        stack.enter_context(suppress(Stopped))
        material = Material.of(settings)
        examples = stack.enter_context(_learning(settings, material, seat, step, since_ms=since_ms, dry=dry))
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


def _ask(settings: Settings, seat: Seat, stop: threading.Event) -> Iterator[events.LearnEvent]:
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
            if seat.held or not seat.taken:
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


@dataclass(frozen=True)
class Material:
    """What a learner has of the data set: a sample of the training images, and the images that no training reads."""

    reference: Images
    validation: Images
    classes: tuple[str, ...]
    split: str  # hash of the split

    @classmethod
    def of(cls, settings: Settings) -> Material:
        """Load it.

        Raises:
            DataError: the data set is absent, altered or unusable.
        """
        dataset = data.load(settings.data)
        split = data.split(dataset.train.labels, settings.data.split, settings.data.split_seed)
        generator = torch.Generator().manual_seed(settings.online.seed)
        chosen = split.train[torch.randperm(len(split.train), generator=generator)[: settings.online.reference_size]]
        train = dataset.train
        return cls(train.take(chosen), train.take(split.validation), dataset.classes, split.sha256)

    def check(self, learner: Learner) -> None:
        """Refuse a learner whose champion was trained on other images.

        Raises:
            DataError: says what to set.
        """
        if learner.classes != self.classes:
            raise DataError(
                f"version {learner.champion} knows the classes {', '.join(learner.classes[:3])}, ..., the data set has "
                f"{', '.join(self.classes[:3])}, ...; set data.source and data.dir as for its training"
            )
        if learner.split != self.split:
            raise DataError(
                f"version {learner.champion} was trained on another split of the images, so it may have seen "
                "the validation images; set data.source, data.split and data.split_seed as for its training"
            )


@contextmanager
def _learning(
    settings: Settings,
    material: Material,
    seat: Seat,
    on_step: Callable[[], None],
    *,
    since_ms: int | None = None,
    dry: bool = False,
    canary: bool = False,
) -> Iterator[Examples]:
    """A tenure of the seat, which is held."""
    topics = clients.Topics.of(settings.kafka.topic_prefix)
    clients.ensure_topics(settings.kafka, [topics.images, topics.labels, topics.dead_letters])
    learner = Learner(
        Registry(settings.registry),
        settings.online,
        settings.serve.alias,
        reference=material.reference,
        validation=material.validation,
        epoch=seat.take(on_step),
        afresh=since_ms is not None,
        canary=canary,
        on_step=on_step,
    )
    material.check(learner)
    group = f"{settings.kafka.group_id}.learner"
    gaps: list[str] = []  # to learn from what is left is all that can be done about them
    wanted = [topics.images, topics.labels]
    start = None if since_ms is None else positions.since(settings.kafka, wanted, since_ms)
    with (
        closing(learner),
        Source(settings.kafka, wanted, group_id=group, on_gap=gaps.append, start=start) as source,
        prediction_reader(settings.kafka, since_s=settings.online.label_wait) as answers,
        # Beside the checkpoints, which is on a disk: folders of temporary files are in memory on many machines.
        LabelJoin(
            wait_s=settings.online.label_wait,
            max_mb=settings.online.label_wait_mb,
            disk_mb=settings.online.label_wait_disk_mb,
            folder=learner.folder,
        ) as join,
    ):
        examples = Examples(learner, source, join, answers, gaps, topics, settings, since_ms=since_ms or 0, dry=dry)

        def commit(move: Move) -> None:
            seat.commit(move, examples.saved, source, on_step)

        learner.decisions.commit = commit
        yield examples


class Examples:
    """The learner's way to the stream: joins images with late labels, and commits offsets only after it has saved.

    What is no label goes to the dead letters from here, as nobody else reads all labels and commits; what is no image
    goes there from `serve`.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        join: LabelJoin,
        answers: Tail[Prediction],
        gaps: list[str],
        topics: clients.Topics,
        settings: Settings,
        *,
        since_ms: int = 0,
        dry: bool = False,
    ) -> None:
        """What was produced before `since_ms` is passed over. `dry`: nothing is saved, committed or sent."""
        self._since_ms, self._dry = since_ms, dry
        self.learner, self.source, self._answers = learner, source, answers
        #: What becomes of examples.
        self.teach: Callable[[Matched], Iterator[events.LearnEvent]] = partial(_teach, learner)
        #: Whether updates are made as they become due.
        self.updates = True
        self._gaps = gaps
        self._topics, self._settings = topics, settings
        self._join = join
        # What was learned from before the last restart is read again, where its neighbours were still waiting then.
        known = learner.buffer.ids
        self._join.settle(known, repeat(None, len(known)))
        self._served = Served(settings.online.label_wait)
        self._overload = Overload(settings.online.update_every)
        self._pace = Pace()
        self._positions: dict[Partition, int] = {}  # the next offset to read
        #: What the last checkpoint holds, as committed.
        self.saved: dict[Partition, int] = {}
        self._shown = Shown.load(learner.reading)
        self._letters: Sender | None = None
        self._bad_labels = 0
        self._told: dict[str, tuple[int, float]] = {}  # of each kind of notice: the count told last, and when
        self._disk_failure: str | None = None  # as it was told
        self.unsaved = False
        source.listen(self._forget, self._forget)

    def status(self) -> events.LearnerStatus:
        """Where the learner stands, how many images wait for their label, and what was served."""
        return replace(self.learner.status(), waiting=len(self._join), served=self._served.record())

    def read(self) -> Iterator[events.LearnEvent]:
        """Show the learner the next labelled images, and those that have met their label now."""
        if self.updates:  # else all there is has to be read first
            yield from self._overload.update(self.source.lag(), time.monotonic())
        self.learner.behind = self._overload.rare
        records = self.source.read(READ, WAIT)
        for record in records:
            self._positions[record.topic, record.partition] = record.offset + 1
        self.unsaved = self.unsaved or bool(records)
        if self._since_ms:
            records = [record for record in records if record.timestamp_ms >= self._since_ms]
        yield from self._take_images([record for record in records if record.topic == self._topics.images])
        yield from self._take_labels([record for record in records if record.topic == self._topics.labels])
        self.source.hold(self._pace.after(records, self.source.assigned, self._join.fill))
        self._served.answers(self._answers.read())
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
        self.learner.save(self._shown.dump(self._join.numbers(MOST)))
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
            self.saved = offsets

    def _take_images(self, records: Sequence[Record]) -> Iterator[events.LearnEvent]:
        batch, _ = codecs.decode(
            records,
            classes=len(self.learner.classes),
            json_mean=self._settings.serve.json_mean,
            json_std=self._settings.serve.json_std,
        )
        takes = self._overload.takes
        # In the order of their arrival, however they were cut into batches: decisions depend on it.
        skipped = [record for image_id, record in zip(batch.ids, batch.records, strict=True) if not takes(image_id)]
        if skipped:
            batch = batch.only(takes)
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

        for record in skipped:
            self._shown.add(record)

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
        self._served.labels(zip(batch.ids, batch.labels.tolist(), strict=True))
        if not all(map(self._overload.takes, batch.ids)):
            batch = batch.only(self._overload.takes)
        yield from self.teach(self._join.add_labels(batch.ids, batch.labels, map(_place, batch.records)))

    def _too_late_ms(self) -> int | None:
        """What was produced before this time has waited long enough; None while its label may be still unread."""
        lag = self.source.lag()
        if lag is None or lag > READ:
            return None
        return int((time.time() - self._settings.online.label_wait) * 1000)

    def _losses(self) -> Iterator[events.Notice]:
        """Says what does not become an example, now and then."""
        topic, failure = self._topics.labels, self._join.disk_failure
        if failure != self._disk_failure:
            self._disk_failure = failure
            yield events.Notice(
                f"images that wait for their labels go to the disk no more ({failure}): those that were there are "
                "given up, and online.label_wait_mb is all the room until the learner is started again"
            )
        room = "online.label_wait_disk_mb" if failure is None else "without the disk, online.label_wait_mb"
        for number, story in (
            (self._bad_labels, f"messages on {topic} are no labels; they go to {self._topics.dead_letters}"),
            (
                self._join.conflicting_labels,
                "labels contradict the first one of the same image, which counts",
            ),
            (
                self._join.displaced_images,
                f"images were given up before their label came: {room} is too small for online.label_wait",
            ),
        ):
            told, at = self._told.get(story, (0, -NOTICE_INTERVAL))
            if number > told and time.monotonic() - at >= NOTICE_INTERVAL:
                self._told[story] = number, time.monotonic()
                yield events.Notice(f"{number:,} {story}")

    def _forget(self, partitions: frozenset[Partition]) -> None:
        """Whoever has these partitions now reads on from where we have committed."""
        self._shown.keep(self._join.numbers(MOST))
        self._join.forget(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self.saved.pop(partition, None)


def _place(record: Record) -> Place:
    return Place(record.topic, record.partition, record.offset, record.timestamp_ms)
