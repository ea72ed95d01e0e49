"""An outside client that produces: nothing but confluent-kafka in a loop, the bound of what `cifarctl produce` can do.

The messages are made before the clock starts: key, value and headers are those of `cifarctl produce`, and so are the
options of the client (cifarctl.stream.clients.producer), but for a longer queue. The loop is produce() and poll(0),
then flush(); the rate is from the first message to the last acknowledgement. The other benchmarks fill their topics
with it.

    python -m benchmarks.feed --servers HOST:PORT --topic NAME --count N --images FILE.npy --labels FILE.npy
                              [--kind raw|json|bad]

`bad` is none that a model may see, eight kinds in turns: a raw image one byte short, a raw image whose label is no
class, bytes at random, JSON with broken base64, JSON with NaN pixels, an unknown content type, a PNG that claims to be
60,000 pixels wide, a tombstone. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, codecs

MEAN = STD = (0.5, 0.5, 0.5)
Message = tuple[bytes, bytes | None, list[Any]]


def messages(kind: str, images: Any, labels: list[int], count: int) -> Iterator[Message]:
    """Key, value and headers of `count` messages; images (N, 3, 32, 32) uint8."""
    run = uuid.uuid4().hex[:8]
    for position in range(count):
        index, id = position % len(images), f"{run}-{position:08d}"
        if kind == "bad":
            yield id.encode(), *bad(position, images[index], id)
        elif kind == "json":
            value = codecs.encode_json(images[index], labels[index], id, MEAN, STD)
            yield id.encode(), value, codecs.headers_for("json", id, labels[index])
        else:
            yield id.encode(), codecs.encode_raw(images[index]), codecs.headers_for("raw", id, labels[index])


def bad(position: int, image: Any, id: str) -> tuple[bytes | None, list[Any]]:
    """Value and headers of a message that must not reach a model."""
    raw, as_raw, as_json = image.tobytes(), codecs.headers_for("raw", id, 0), codecs.headers_for("json", id, 0)
    generator = random.Random(position)
    choice = position % 8
    if choice == 0:
        return raw[:-1], as_raw
    if choice == 1:
        return raw, codecs.headers_for("raw", id, 10)
    if choice == 2:
        return generator.randbytes(500), []
    if choice == 3:
        return json.dumps({"id": id, "label": 0, "image": "*" * 16384}).encode(), as_json
    if choice == 4:
        pixels = np.full((3, 32, 32), np.nan, dtype=np.float32).tobytes()
        return json.dumps({"id": id, "label": 0, "image": base64.b64encode(pixels).decode()}).encode(), as_json
    if choice == 5:
        return raw, [("content-type", b"application/x-tar"), ("id", id.encode())]
    if choice == 6:
        header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + header + generator.randbytes(64), []
    return None, []


def main() -> None:
    """Send."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed")
    for name in ("servers", "topic"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("images", "labels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--kind", choices=("raw", "json", "bad"), default="raw")
    given = parser.parse_args()

    images, labels = np.load(given.images), np.load(given.labels).tolist()
    made = list(messages(given.kind, images, labels, given.count))
    kafka = KafkaSettings(bootstrap_servers=given.servers)
    queue: dict[str, Any] = {"queue.buffering.max.kbytes": 1 << 20}  # librdkafka's default again
    producer = clients.producer(kafka, idempotent=not clients.check(kafka).embedded, **queue)
    producer.list_topics(given.topic, timeout=10)  # connected, as one who measures a loop would have it
    topic, send, poll = given.topic, producer.produce, producer.poll

    began = time.perf_counter()
    for key, value, headers in made:
        while True:
            try:
                send(topic, value, key, headers=headers)
                break
            except BufferError:
                poll(0.01)
        poll(0)
    if left := producer.flush(60):
        raise TimeoutError(f"{left} messages were not acknowledged")
    seconds = time.perf_counter() - began
    print(json.dumps({"messages": given.count, "seconds": seconds, "messages_per_second": given.count / seconds}))


if __name__ == "__main__":
    main()
