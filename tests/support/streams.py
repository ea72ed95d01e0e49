"""Topics that tests fill, and read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cifarctl.settings import KafkaSettings
from cifarctl.stream.records import Record
from cifarctl.stream.source import Source

PATIENCE_S = 60.0


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "it did not happen"


def read_all(source: Source, batch: int = 100) -> list[Record]:
    records: list[Record] = []

    def drained() -> bool:
        records.extend(source.read(batch, 0.05))
        return source.drained

    until(drained)
    return records


def settings_for(address: str, **more: Any) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=address, **more)
