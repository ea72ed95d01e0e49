"""Streaming images into Kafka, on time, and their labels with them or later."""

from __future__ import annotations

import heapq
import math
import secrets
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cifarctl import events
from cifarctl.data import Course, Images, Scenario
from cifarctl.errors import BrokerError
from cifarctl.models import threads
from cifarctl.settings import KafkaSettings, ProduceSettings, ServeSettings
from cifarctl.stream import clients, codecs, connection, rights
from cifarctl.stream.label_records import encode_label
from cifarctl.stream.limits import of_topics
from cifarctl.stream.sender import Sender
from cifarctl.stream.standstill import STANDSTILL_S, Standstill

BLOCK = 256  # images prepared at once
PROGRESS_INTERVAL = 0.2  # seconds between two ProduceProgress events
ROOM_INTERVAL = 0.02  # seconds between two tries to put more into a full queue

Message: TypeAlias = tuple[bytes, bytes, codecs.Headers]  # key, value, headers


def produce(
    images: Images,
    classes: int,
    kafka: KafkaSettings,
    settings: ProduceSettings,
    serve: ServeSettings,
    *,
    count: int | None = None,
    drift: Scenario | None = None,
    stop: threading.Event | None = None,
) -> Iterator[events.ProduceEvent]:
    """Send `count` images (None: until stopped) at `settings.rate` a second, in a seeded order.

    Message n is due n / rate seconds after the first, by a clock that only goes forward, so lateness of one never
    delays another; while the broker is away they wait, and then follow as fast as it takes them. With a label delay
    labels go to the labels topic that long after their images, and where `drift` makes them late, so many images after
    them, or after the last; all at once when `stop` is set. Labels are 0 to `classes` - 1. Ids are unique to the run.
    JSON is normalised as `serve` expects it.

    Raises:
        SettingsError: `drift` names a class that there is not, or leaves none to choose from.
        BrokerError: no broker at the start, or something was not delivered; the ProduceResult before it has counts.
    """
    stop, drift = stop or threading.Event(), drift or Scenario.parse("")
    threads.use(1)  # drift takes little; threads that spin for each other would take it from the broker
    topics = clients.Topics.of(kafka.topic_prefix)
    course = Course(images, drift, settings.seed, classes)
    late = bool(settings.label_delay) or drift.uses("late")
    needed = [topics.images, topics.labels] if late else [topics.images]
    rights.ensure_topics(kafka, {topic: ["Write"] for topic in needed})
    run = secrets.token_hex(4)
    out = _Out(kafka, settings, topics, drift, stop, run, late=late)
    yield events.ProduceStarted(topics.images, len(images), count, settings.rate, settings.format, drift.text)
    out.begin()
    for block in _blocks(course, settings, serve, count, run):
        yield from out.send(block)
        if stop.is_set():
            break
        again = course.repeats_from
        if again is not None and block.position <= again < out.position:
            yield events.Notice(f"{again:,} images have been sent; from now on some come again, with new ids")
    yield from out.finish()


@dataclass(frozen=True)
class _Block:
    """Messages for the images topic from `position` of the stream on, and labels that are to follow.

    `late` has a label for each message, None where none follows, and how many images later; 0 is by the clock.
    """

    position: int
    messages: list[Message]
    late: list[tuple[int | None, int]]


def _blocks(
    course: Course, settings: ProduceSettings, serve: ServeSettings, count: int | None, run: str
) -> Iterator[_Block]:
    """The stream in sending order."""
    chance = torch.Generator().manual_seed(settings.seed)
    mean, std, form = serve.json_mean, serve.json_std, settings.format
    position = 0
    while count is None or position < count:
        size = BLOCK if count is None else min(BLOCK, count - position)
        passage = course.take(position, size)
        withheld = ((torch.rand(size, generator=chance) < settings.unlabelled) | (passage.given < 0)).tolist()
        given = [None if hide else label for hide, label in zip(withheld, passage.given.tolist(), strict=True)]
        delays = passage.late.tolist()
        follows = [bool(settings.label_delay or delay) for delay in delays]
        labels = [None if later else label for label, later in zip(given, follows, strict=True)]
        late = [(label if later else None, delay) for label, later, delay in zip(given, follows, delays, strict=True)]
        ids = [_id(run, number) for number in range(position, position + size)]
        values = codecs.encode_images(form, passage.pixels.numpy(), labels, ids, mean, std)
        messages: list[Message] = [
            (image_id.encode(), value, codecs.headers_for(form, image_id, label))
            for image_id, value, label in zip(ids, values, labels, strict=True)
        ]
        yield _Block(position, messages, late)
        position += size


class _Lane:
    """A way out to one topic; a full queue is waited for by the loop above, which has something to tell meanwhile."""

    def __init__(self, kafka: KafkaSettings, topic: str, linger: bool) -> None:
        # Nothing is given up, however long the broker is away.
        options = {"message.timeout.ms": 0} | ({} if linger else {"linger.ms": 0})
        self.sender = Sender(kafka, options=options, limits=of_topics(kafka, [topic]))
        self._kafka, self._topic = kafka, topic
        self._standstill = Standstill(self.sender, topic)

    @property
    def pending(self) -> int:
        """Messages whose fate is not known yet."""
        return self.sender.pending

    @property
    def delivered(self) -> int:
        """Messages that the broker has acknowledged."""
        return self.sender.sent - self.failed - self.sender.unconfirmed - self.sender.pending

    @property
    def failed(self) -> int:
        """Messages that have certainly not arrived, or that the client has given up for its time limit."""
        return self.sender.failed + self.sender.unsent

    def put(self, messages: Sequence[Message]) -> int:
        """Queue as many of `messages` as there is room for; how many that were."""
        with connection.broker_errors(self._kafka, f"cannot send to {self._topic}"):
            return self.sender.enqueue_many(self._topic, messages)

    def look(self) -> int:
        """Hear of acknowledgements; how many messages a new client was given, 0 while they come: see Standstill."""
        self.sender.poll(0)
        return self._standstill.look()

    def flush(self, timeout_s: float) -> None:
        """Wait until the fate of all messages is known, `timeout_s` seconds at most."""
        if self.pending:
            self.sender.flush(timeout_s)


class _LateLabels:
    """The labels that are not due yet by the clock, in a few bytes each."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._groups: deque[tuple[float, array[int], array[int]]] = deque()  # when, positions, labels
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def next_at(self) -> float:
        """When the next ones are due."""
        return self._groups[0][0] if self._groups else math.inf

    def add(self, at: float, known: Sequence[tuple[int, int]]) -> None:
        """The labels of some images, (position, label), are due `at` this time, which must not fall."""
        if known:
            numbers, values = zip(*known, strict=True)
            self._groups.append((at, array("q", numbers), array("i", values)))
            self._count += len(known)

    def send(self, now: float, lane: _Lane) -> None:
        """Send what is due, as far as there is room."""
        while self._groups and self.next_at <= now:
            at, numbers, values = self._groups.popleft()
            taken = lane.put([_label(self._run, number, label) for number, label in zip(numbers, values, strict=True)])
            self._count -= taken
            if taken < len(numbers):
                self._groups.appendleft((at, numbers[taken:], values[taken:]))
                return


class _LabelsBehind:
    """The labels that are to come so many images after their own."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._waiting: list[tuple[int, int, int]] = []  # a heap: images to be sent before, position, label

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_at(self) -> float:
        """How many images must be sent before the next one."""
        return self._waiting[0][0] if self._waiting else math.inf

    def limit(self, position: int, late: Sequence[tuple[int | None, int]]) -> float:
        """Up to which position images may go before a label is due, if those of `late` follow from `position` on."""
        numbered = ((number, delay) for number, (label, delay) in enumerate(late, position) if label is not None)
        return min(self.next_at, min((number + delay + 1 for number, delay in numbered if delay), default=math.inf))

    def add(self, known: Iterable[tuple[int, int, int]]) -> None:
        """(position, label, by how many images it is late); those that are not late are somebody else's."""
        for number, label, delay in known:
            if delay:
                heapq.heappush(self._waiting, (number + delay + 1, number, label))

    def send(self, position: float, lane: _Lane) -> None:
        """Send what is due once `position` images are sent, as far as there is room."""
        ready = []
        while self._waiting and self._waiting[0][0] <= position:
            ready.append(heapq.heappop(self._waiting))
        taken = lane.put([_label(self._run, number, label) for _, number, label in ready]) if ready else 0
        for item in ready[taken:]:
            heapq.heappush(self._waiting, item)


class _Out:
    """Sends the stream, and tells how it goes."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: ProduceSettings,
        topics: clients.Topics,
        drift: Scenario,
        stop: threading.Event,
        run: str,
        *,
        late: bool,
    ) -> None:
        self._kafka, self._rate, self._delay = kafka, settings.rate, settings.label_delay
        self._drift, self._stop = drift, stop
        linger = settings.rate == 0
        self._images = _Lane(kafka, topics.images, linger)
        self._labels = _Lane(kafka, topics.labels, linger) if late else None
        self._lanes = [lane for lane in (self._images, self._labels) if lane is not None]
        self._late, self._behind = _LateLabels(run), _LabelsBehind(run)
        self.position = 0  # of the next image
        self._acknowledged = 0
        self._ended: float | None = None  # when the last image was acknowledged
        self.begin()

    def begin(self) -> None:
        """The first image is due now."""
        self._began = self._shown = self._heard = time.monotonic()

    def send(self, block: _Block) -> Iterator[events.ProduceEvent]:
        """Send the images of `block`, each when it is due, and the labels that become due meanwhile."""
        end = block.position + len(block.messages)
        while self.position < end and not self._stop.is_set():
            now = time.monotonic()
            first = self.position - block.position
            due = self._due(end, now)
            limit = self._behind.limit(self.position, block.late[first:])
            last = round(min(due, limit)) - block.position
            taken = self._images.put(block.messages[first:last])
            known = [
                (number, label, delay)
                for number, (label, delay) in enumerate(block.late[first : first + taken], self.position)
                if label is not None
            ]
            taken_at = time.monotonic()  # later than any of these images' own time
            self._late.add(taken_at + self._delay, [(number, label) for number, label, delay in known if not delay])
            self._behind.add(known)
            self.position += taken
            self._send_labels(now, self.position)
            if taken < last - first:
                self._images.sender.poll(ROOM_INTERVAL)
            elif self._behind.next_at <= self.position and self._labels is not None:
                self._labels.sender.poll(ROOM_INTERVAL)
            elif due <= self.position < end:
                self._wait(min(self._began + self.position / self._rate, self._late.next_at))
            yield from self._report()

    def finish(self) -> Iterator[events.ProduceEvent]:
        """Send the labels that are due yet and wait for the acknowledgements; ends with the ProduceResult.

        Waits as long as the client has not given up a message; once told to stop, `kafka.timeout_s` at most.

        Raises:
            BrokerError: something was not delivered.
        """
        deadline = math.inf
        while True:
            now = time.monotonic()
            if self._stop.is_set():
                deadline = min(deadline, now + self._kafka.timeout_s)
            self._send_labels(math.inf if self._stop.is_set() else now, math.inf)
            if self._ended is None and not self._images.pending:
                self._ended = now
            if now >= deadline or not (self._waiting or self._pending):
                break
            if self._pending:
                step = max(ROOM_INTERVAL, min(self._late.next_at - now, PROGRESS_INTERVAL))
                for lane in self._lanes:
                    lane.flush(step)
            else:
                self._wait(self._late.next_at)
            yield from self._report()
        for lane in self._lanes:
            if lane.pending:
                lane.sender.give_up()
        yield self._progress()
        yield self._result()
        for lane in self._lanes:
            unsent, unconfirmed = lane.sender.unsent, lane.sender.unconfirmed
            if unsent + unconfirmed:
                raise BrokerError(
                    f"{unsent + unconfirmed} messages are not acknowledged by {self._kafka.bootstrap_servers}: "
                    f"{unconfirmed} of them may have arrived, {unsent} have not been sent; check "
                    "kafka.bootstrap_servers and send again"
                )
            lane.sender.close(0.0)
        if self._waiting:
            raise BrokerError(
                f"{self._waiting} labels were not sent: {self._kafka.bootstrap_servers} takes no more; "
                "check kafka.bootstrap_servers and send again"
            )

    @property
    def _pending(self) -> int:
        return sum(lane.pending for lane in self._lanes)

    @property
    def _waiting(self) -> int:
        return len(self._late) + len(self._behind)

    def _due(self, end: int, now: float) -> int:
        """The position up to which images are due at `now`, `end` at most."""
        if self._rate == 0:
            return end
        due = self.position
        while due < end and self._began + due / self._rate <= now:
            due += 1
        return due

    def _wait(self, until: float) -> None:
        """Wait in short steps, so that progress is shown and Ctrl-C is heard at 0.2 messages a second too."""
        wait = until - time.monotonic()
        if wait > 0:
            self._stop.wait(min(wait, PROGRESS_INTERVAL))

    def _send_labels(self, now: float, position: float) -> None:
        if self._labels is not None:
            self._late.send(now, self._labels)
            self._behind.send(position, self._labels)

    def _report(self) -> Iterator[events.ProduceEvent]:
        """Progress, now and then; notices where messages wait and none has been acknowledged for long."""
        now = time.monotonic()
        if now - self._shown < PROGRESS_INTERVAL:
            return
        self._shown = now
        for lane in self._lanes:
            if moved := lane.look():
                yield events.Notice(
                    f"{moved} messages are sent again by a new client: the old one has stood still for "
                    f"{STANDSTILL_S:g} s although {self._kafka.bootstrap_servers} answers; a few may arrive twice, "
                    "under the same ids"
                )
        yield self._progress()
        acknowledged, pending = sum(lane.delivered for lane in self._lanes), self._pending
        if acknowledged > self._acknowledged or not pending:
            self._acknowledged, self._heard = acknowledged, now
        elif now - self._heard > self._kafka.timeout_s:
            self._heard = now
            yield events.Notice(f"{pending} messages wait: {self._kafka.bootstrap_servers} does not acknowledge them")

    def _progress(self) -> events.ProduceProgress:
        labels = self._labels
        return events.ProduceProgress(
            sent=self._images.delivered,
            failed=self._images.failed,
            queued=self._images.pending,
            seconds=time.monotonic() - self._began,
            phase=self._drift.active(max(0, self.position - 1)),
            labels_sent=labels.delivered if labels is not None else 0,
            labels_failed=labels.failed if labels is not None else 0,
            labels_waiting=self._waiting,
        )

    def _result(self) -> events.ProduceResult:
        images, labels = self._images, self._labels
        seconds = (time.monotonic() if self._ended is None else self._ended) - self._began
        return events.ProduceResult(
            sent=images.delivered,
            failed=images.failed,
            seconds=seconds,
            messages_per_second=images.delivered / max(seconds, 1e-9),
            labels_sent=labels.delivered if labels is not None else 0,
            labels_failed=self._waiting + (labels.failed if labels is not None else 0),
            unconfirmed=images.sender.unconfirmed,
            labels_unconfirmed=labels.sender.unconfirmed if labels is not None else 0,
        )


def _label(run: str, position: int, label: int) -> Message:
    image_id = _id(run, position)
    return image_id.encode(), encode_label(image_id, label), []


def _id(run: str, position: int) -> str:
    return f"{run}-{position:08d}"
