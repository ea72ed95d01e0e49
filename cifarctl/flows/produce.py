"""Streaming images into Kafka, on time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.data import Images, Scenario
from cifarctl.settings import KafkaSettings, ProduceSettings, ServeSettings
from cifarctl.stream import clients, codecs
from cifarctl.stream.sender import Sender

BLOCK = 256  # images prepared at once
PROGRESS_INTERVAL = 0.2  # seconds between two ProduceProgress events


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
    delays another. Ids are unique to the run. JSON is normalised as `serve` expects it.

    Raises:
        BrokerError: no broker, or it stopped answering; the message says how many images may be lost.
    """
    stop = stop or threading.Event()
    drift = drift or Scenario("", ())
    topic = clients.Topics.of(kafka.topic_prefix).images
    clients.ensure_topics(kafka, [topic])
    yield events.ProduceStarted(topic, len(images), count, settings.rate, settings.format, drift.text)

    run = secrets.token_hex(4)
    sender = Sender(kafka, stop)
    began = shown = time.monotonic()

    acknowledged, heard = 0, began

    def silence() -> Iterator[events.Notice]:
        """Says so, once in a while, when messages wait and none is acknowledged."""
        nonlocal acknowledged, heard
        done = sender.sent - sender.pending
        if done > acknowledged or not sender.pending:
            acknowledged, heard = done, time.monotonic()
        elif time.monotonic() - heard > kafka.timeout_s:
            heard = time.monotonic()
            yield events.Notice(f"{sender.pending} messages wait: {kafka.bootstrap_servers} does not acknowledge them")

    def progress(position: int) -> events.ProduceProgress:
        return events.ProduceProgress(
            sent=sender.sent - sender.pending - sender.failed,
            failed=sender.failed,
            queued=sender.pending,
            seconds=time.monotonic() - began,
            phase=drift.active(position),
        )

    position = 0
    for pixels, labels in _blocks(images, settings, drift, count):
        for picture, label in zip(pixels, labels, strict=True):
            while settings.rate and not stop.is_set():
                # Wait in short steps, so that progress is shown and Ctrl-C is heard at 0.2 messages a second too.
                wait = began + position / settings.rate - time.monotonic()
                if wait <= 0:
                    break
                stop.wait(min(wait, PROGRESS_INTERVAL))
                if time.monotonic() - shown >= PROGRESS_INTERVAL:
                    shown = time.monotonic()
                    sender.producer.poll(0)
                    yield progress(position)
                    yield from silence()
            if stop.is_set():
                break
            image_id = f"{run}-{position:08d}"
            if settings.format == "json":
                value = codecs.encode_json(picture, label, image_id, serve.json_mean, serve.json_std)
            else:
                value = codecs.encode_raw(picture)
            headers = codecs.headers_for(settings.format, image_id, label)
            if not sender.send(topic, image_id.encode(), value, headers):
                break
            position += 1
            if position % len(images) == 0 and position != count:
                yield events.Notice(f"all {len(images):,} images have been sent; they start again with new ids")
            if time.monotonic() - shown >= PROGRESS_INTERVAL:
                shown = time.monotonic()
                yield progress(position)
                yield from silence()
        if stop.is_set():
            break

    left, since = sender.pending, time.monotonic()
    while not sender.flush(PROGRESS_INTERVAL):  # as long as acknowledgements come in, however slowly
        if sender.pending < left:
            left, since = sender.pending, time.monotonic()
        elif time.monotonic() - since > kafka.timeout_s:
            break
        yield progress(max(0, position - 1))
    seconds = time.monotonic() - began
    yield progress(max(0, position - 1))
    failed = sender.failed + sender.pending
    yield events.ProduceResult(
        sent=sender.sent - failed,
        failed=failed,
        seconds=seconds,
        messages_per_second=(sender.sent - failed) / max(seconds, 1e-9),
    )
    sender.close(0.0)


def streamed(images: Images, start: int, size: int, drift: Scenario, seed: int) -> Images:
    """The images at positions `start`..`start + size - 1` of the stream: seeded order, drift applied.

    A stream longer than `images` starts again with the first.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    block = images.take(order[torch.arange(start, start + size) % len(order)])
    return Images(drift.apply(block.pixels, start, seed), block.labels)


def _blocks(
    images: Images, settings: ProduceSettings, drift: Scenario, count: int | None
) -> Iterator[tuple[NDArray[np.uint8], list[int | None]]]:
    """Pixels (B, 3, 32, 32) uint8 and labels (None: withheld) in sending order."""
    chance = torch.Generator().manual_seed(settings.seed)
    position = 0
    while count is None or position < count:
        size = BLOCK if count is None else min(BLOCK, count - position)
        block = streamed(images, position, size, drift, settings.seed)
        withheld = (torch.rand(size, generator=chance) < settings.unlabelled).tolist()
        labels = [None if hide else label for hide, label in zip(withheld, block.labels.tolist(), strict=True)]
        yield block.pixels.numpy(), labels
        position += size
