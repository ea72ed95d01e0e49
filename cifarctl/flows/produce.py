"""``cifarctl produce``: streams images into Kafka, on time, and their labels with them or later."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from cifarctl import events
from cifarctl.data import Course, Images, Scenario
from cifarctl.errors import BrokerError
from cifarctl.models import threads
from cifarctl.settings import KafkaSettings, ProduceSettings, ServeSettings
from cifarctl.stream import clients, rights
from cifarctl.stream.codecs import encode_images, headers_for
from cifarctl.stream.label_records import encode_label
from cifarctl.stream.lane import Lane, Message
from cifarctl.stream.producer_stall import PRODUCER_STALL_S
from cifarctl.stream.scheduled_labels import LabelsByClock, LabelsByPosition

BLOCK = 256  # images prepared at once
PROGRESS_INTERVAL = 0.2  # seconds between two ProduceProgress events
ROOM_INTERVAL = 0.02  # seconds between two tries to put more into a full queue


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

    Message n is due n / rate seconds after the first, by a monotonic clock, so a late message never delays another.
    While the broker is away messages wait; afterwards they follow as fast as it takes them. With a label delay, labels
    go to the labels topic that many seconds after their images. Where `drift` makes them late, they follow so many
    images later, or after the last one. When `stop` is set, all of them are sent at once. Labels are 0 to
    `classes` - 1. Ids are unique to the run. JSON is normalised as `serve` expects it.

    Raises:
        SettingsError: `drift` names a class that does not exist, or leaves no class to choose from.
        BrokerError: no broker at the start, or something was not delivered; the ProduceResult before it has counts.
    """
    stop, drift = stop or threading.Event(), drift or Scenario.parse("")
    threads.use(1)  # drift needs little time; threads that spin for each other would take it from the broker
    topics = clients.Topics.of(kafka.topic_prefix)
    course = Course(images, drift, settings.seed, classes)
    late = bool(settings.label_delay) or drift.uses("late")
    needed = [topics.images, topics.labels] if late else [topics.images]
    rights.ensure_topics(kafka, {topic: ["Write"] for topic in needed})
    run = secrets.token_hex(4)
    out = _StreamSender(kafka, settings, topics, drift, stop, run, late=late)
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
    """Messages for the images topic from `position` of the stream on, and labels that are sent later.

    `late` has for each message its label, None where none is sent later, and by how many images it is late; 0 = by the
    clock.
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
        values = encode_images(form, passage.pixels.numpy(), labels, ids, mean, std)
        messages: list[Message] = [
            (image_id.encode(), value, headers_for(form, image_id, label))
            for image_id, value, label in zip(ids, values, labels, strict=True)
        ]
        yield _Block(position, messages, late)
        position += size


class _StreamSender:
    """Sends images and labels when they are due, and reports on it."""

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
        message = partial(_label, run)
        self._images = Lane(kafka, topics.images, linger=linger)
        self._labels = Lane(kafka, topics.labels, linger=linger) if late else None
        self._lanes = [lane for lane in (self._images, self._labels) if lane is not None]
        self._by_clock, self._by_position = LabelsByClock(message), LabelsByPosition(message)
        self.position = 0  # of the next image
        self._acknowledged = 0
        self._ended: float | None = None  # when the last image was acknowledged
        self.begin()

    def begin(self) -> None:
        """The first image is due now."""
        self._began = self._reported_at = self._heard = time.monotonic()

    def send(self, block: _Block) -> Iterator[events.ProduceEvent]:
        """Send the images of `block`, each when it is due, and the labels that become due meanwhile."""
        end = block.position + len(block.messages)
        while self.position < end and not self._stop.is_set():
            now = time.monotonic()
            first = self.position - block.position
            due = self._due(end, now)
            limit = self._by_position.limit(self.position, block.late[first:])
            last = round(min(due, limit)) - block.position
            taken = self._images.put(block.messages[first:last])
            known = [
                (number, label, delay)
                for number, (label, delay) in enumerate(block.late[first : first + taken], self.position)
                if label is not None
            ]
            taken_at = time.monotonic()  # later than any of these images' own time
            self._by_clock.add(taken_at + self._delay, [(number, label) for number, label, delay in known if not delay])
            self._by_position.add(known)
            self.position += taken
            self._send_labels(now, self.position)
            if taken < last - first:
                self._images.sender.poll(ROOM_INTERVAL)
            elif self._by_position.next_at <= self.position and self._labels is not None:
                self._labels.sender.poll(ROOM_INTERVAL)
            elif due <= self.position < end:
                self._wait(min(self._began + self.position / self._rate, self._by_clock.next_at))
            yield from self._report()

    def finish(self) -> Iterator[events.ProduceEvent]:
        """Send the remaining labels and wait for the acknowledgements; ends with the ProduceResult.

        Waits as long as the client has not given up a message; once `stop` is set, `kafka.timeout_s` seconds at most.

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
                step = max(ROOM_INTERVAL, min(self._by_clock.next_at - now, PROGRESS_INTERVAL))
                for lane in self._lanes:
                    lane.flush(step)
            else:
                self._wait(self._by_clock.next_at)
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
                f"{self._waiting} labels were not sent: {self._kafka.bootstrap_servers} accepts no more; "
                "check kafka.bootstrap_servers and send again"
            )

    @property
    def _pending(self) -> int:
        return sum(lane.pending for lane in self._lanes)

    @property
    def _waiting(self) -> int:
        return len(self._by_clock) + len(self._by_position)

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
            self._by_clock.send(now, self._labels)
            self._by_position.send(position, self._labels)

    def _report(self) -> Iterator[events.ProduceEvent]:
        """Progress, now and then; notices where messages wait and none has been acknowledged for long."""
        now = time.monotonic()
        if now - self._reported_at < PROGRESS_INTERVAL:
            return
        self._reported_at = now
        for lane in self._lanes:
            if moved := lane.look():
                yield events.Notice(
                    f"{moved} messages are sent again by a new client: the old one has stood still for "
                    f"{PRODUCER_STALL_S:g} s although {self._kafka.bootstrap_servers} answers; a few may arrive twice, "
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
