"""Streaming images into Kafka, on time, and their labels with them or later."""

from __future__ import annotations

import math
import secrets
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch

from cifarctl import events
from cifarctl.data import Images, Scenario
from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings, ProduceSettings, ServeSettings
from cifarctl.stream import clients, codecs, connection
from cifarctl.stream.labels import encode_label
from cifarctl.stream.sender import Sender

BLOCK = 256  # images prepared at once
PROGRESS_INTERVAL = 0.2  # seconds between two ProduceProgress events
ROOM_INTERVAL = 0.02  # seconds between two tries to put more into a full queue

Message: TypeAlias = tuple[bytes, bytes, codecs.Headers]  # key, value, headers


def produce(
    images: Images,
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
    delays another; while the broker is away they wait, and then follow as fast as it takes them. With a label delay,
    labels go to the labels topic that long after their images, and at once when `stop` is set. Ids are unique to the
    run. JSON is normalised as `serve` expects it.

    Raises:
        BrokerError: no broker at the start, or something was not delivered; the ProduceResult before it has counts.
    """
    stop, drift = stop or threading.Event(), drift or Scenario("", ())
    torch.set_num_threads(1)  # drift takes little; threads that spin for each other would take it from the broker
    topics = clients.Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.labels] if settings.label_delay else [topics.images])
    run = secrets.token_hex(4)
    out = _Out(kafka, settings, topics, drift, stop, run)
    yield events.ProduceStarted(topics.images, len(images), count, settings.rate, settings.format, drift.text)
    out.begin()
    for block in _blocks(images, settings, serve, drift, count, run):
        yield from out.send(block)
        if stop.is_set():
            break
        rounds, before = out.position // len(images), block.position // len(images)
        if rounds > before and rounds * len(images) != count:
            yield events.Notice(f"all {len(images):,} images have been sent; they start again with new ids")
    yield from out.finish()


def streamed(images: Images, start: int, size: int, drift: Scenario, seed: int) -> Images:
    """The images at positions `start`..`start + size - 1` of the stream: seeded order, drift applied.

    A stream longer than `images` starts again with the first.
    """
    index = _order(len(images), seed)[torch.arange(start, start + size) % len(images)]
    # NumPy copies image by image; torch's indexing goes by the pixel, or sets up threads for a millisecond's work.
    pixels = torch.from_numpy(images.pixels.numpy()[index.numpy()])
    return Images(drift.apply(pixels, start, seed), images.labels[index])


@lru_cache(maxsize=4)
def _order(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class _Block:
    """Messages for the images topic from `position` of the stream on, and labels that are to follow (None: never)."""

    position: int
    messages: list[Message]
    late: list[int | None]


def _blocks(
    images: Images, settings: ProduceSettings, serve: ServeSettings, drift: Scenario, count: int | None, run: str
) -> Iterator[_Block]:
    """The stream in sending order."""
    chance = torch.Generator().manual_seed(settings.seed)
    mean, std, form = serve.json_mean, serve.json_std, settings.format
    position = 0
    while count is None or position < count:
        size = BLOCK if count is None else min(BLOCK, count - position)
        block = streamed(images, position, size, drift, settings.seed)
        withheld = (torch.rand(size, generator=chance) < settings.unlabelled).tolist()
        given = [None if hide else label for hide, label in zip(withheld, block.labels.tolist(), strict=True)]
        never: list[int | None] = [None] * size
        labels, late = (never, given) if settings.label_delay else (given, never)
        ids = [_id(run, number) for number in range(position, position + size)]
        values = codecs.encode_images(form, block.pixels.numpy(), labels, ids, mean, std)
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
        self.sender = Sender(kafka, options={"message.timeout.ms": 0} | ({} if linger else {"linger.ms": 0}))
        self._kafka, self._topic = kafka, topic

    @property
    def pending(self) -> int:
        """Messages whose fate is not known yet."""
        return self.sender.pending

    @property
    def delivered(self) -> int:
        """Messages that the broker has acknowledged."""
        return self.sender.sent - self.sender.failed - self.sender.pending

    def put(self, messages: Sequence[Message]) -> int:
        """Queue as many of `messages` as there is room for; how many that were."""
        with connection.broker_errors(self._kafka, f"cannot send to {self._topic}"):
            return self.sender.enqueue_many(self._topic, messages)

    def flush(self, timeout_s: float) -> None:
        """Wait until the fate of all messages is known, `timeout_s` seconds at most."""
        if self.pending:
            self.sender.flush(timeout_s)


class _LateLabels:
    """The labels that are not due yet, in a few bytes each."""

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

    def add(self, at: float, position: int, labels: Sequence[int | None]) -> None:
        """The labels of the images from `position` on are due `at` this time, which must not fall; None: never."""
        known = [(number, label) for number, label in enumerate(labels, position) if label is not None]
        if known:
            numbers, values = zip(*known, strict=True)
            self._groups.append((at, array("q", numbers), array("i", values)))
            self._count += len(known)

    def send(self, now: float, lane: _Lane) -> None:
        """Send what is due, as far as there is room."""
        while self._groups and self.next_at <= now:
            at, numbers, values = self._groups.popleft()
            ids = [_id(self._run, number) for number in numbers]
            messages: list[Message] = [
                (image_id.encode(), encode_label(image_id, label), [])
                for image_id, label in zip(ids, values, strict=True)
            ]
            taken = lane.put(messages)
            self._count -= taken
            if taken < len(messages):
                self._groups.appendleft((at, numbers[taken:], values[taken:]))
                return


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
    ) -> None:
        self._kafka, self._rate, self._delay = kafka, settings.rate, settings.label_delay
        self._drift, self._stop = drift, stop
        linger = settings.rate == 0
        self._images = _Lane(kafka, topics.images, linger)
        self._labels = _Lane(kafka, topics.labels, linger) if settings.label_delay else None
        self._lanes = [lane for lane in (self._images, self._labels) if lane is not None]
        self._late = _LateLabels(run)
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
            due = self._due(end, now)
            first, last = self.position - block.position, due - block.position
            taken = self._images.put(block.messages[first:last])
            self._late.add(now + self._delay, self.position, block.late[first : first + taken])
            self.position += taken
            self._send_labels(now)
            if self.position < due:
                self._images.sender.poll(ROOM_INTERVAL)
            elif self.position < end:
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
            self._send_labels(math.inf if self._stop.is_set() else now)
            if self._ended is None and not self._images.pending:
                self._ended = now
            if now >= deadline or not (self._late or self._pending):
                break
            if self._pending:
                step = max(ROOM_INTERVAL, min(self._late.next_at - now, PROGRESS_INTERVAL))
                for lane in self._lanes:
                    lane.flush(step)
            else:
                self._wait(self._late.next_at)
            yield from self._report()
        yield self._progress()
        yield self._result()
        for lane in self._lanes:
            lane.sender.close(0.0)
        if self._late:
            raise BrokerError(
                f"{len(self._late)} labels were not sent: {self._kafka.bootstrap_servers} takes no more; "
                "check kafka.bootstrap_servers and send again"
            )

    @property
    def _pending(self) -> int:
        return sum(lane.pending for lane in self._lanes)

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

    def _send_labels(self, now: float) -> None:
        if self._labels is not None:
            self._late.send(now, self._labels)

    def _report(self) -> Iterator[events.ProduceEvent]:
        """Progress, now and then; a notice where messages wait and none has been acknowledged for long."""
        now = time.monotonic()
        if now - self._shown < PROGRESS_INTERVAL:
            return
        self._shown = now
        for lane in self._lanes:
            lane.sender.poll(0)
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
            failed=self._images.sender.failed,
            queued=self._images.pending,
            seconds=time.monotonic() - self._began,
            phase=self._drift.active(max(0, self.position - 1)),
            labels_sent=labels.delivered if labels is not None else 0,
            labels_failed=labels.sender.failed if labels is not None else 0,
            labels_waiting=len(self._late),
        )

    def _result(self) -> events.ProduceResult:
        images, labels = self._images, self._labels
        seconds = (time.monotonic() if self._ended is None else self._ended) - self._began
        return events.ProduceResult(
            sent=images.delivered,
            failed=images.sender.failed + images.pending,
            seconds=seconds,
            messages_per_second=images.delivered / max(seconds, 1e-9),
            labels_sent=labels.delivered if labels is not None else 0,
            labels_failed=len(self._late) + (labels.sender.failed + labels.pending if labels is not None else 0),
        )


def _id(run: str, position: int) -> str:
    return f"{run}-{position:08d}"
