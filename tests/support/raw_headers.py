"""Messages whose header names are any bytes, as other clients send them: ours takes text only.

kafka-python sends them, in a process of its own, since tests take its warnings for errors.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Sent = tuple[bytes, bytes, Sequence[tuple[bytes, bytes]]]  # key, value, headers


class _Name(str):
    """A header name, a character a byte, that is sent as these bytes."""

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


def send(servers: str, topic: str, messages: Sequence[Sent]) -> None:
    """Send to partition 0, in order, and wait until all is there."""
    text = [
        [part.decode("latin-1") for pair in ((key, value), *headers) for part in pair]
        for key, value, headers in messages
    ]
    command = [sys.executable, str(Path(__file__)), servers, topic]
    subprocess.run(command, input=json.dumps(text), text=True, check=True, timeout=60)


def _main(servers: str, topic: str) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=servers, enable_idempotence=False)
    for key, value, *rest in json.load(sys.stdin):
        headers = [(_Name(name), text.encode("latin-1")) for name, text in zip(rest[::2], rest[1::2], strict=True)]
        sent = producer.send(
            topic, key=key.encode("latin-1"), value=value.encode("latin-1"), headers=headers, partition=0
        )
        sent.get(30)
    producer.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
