"""Who is the active learner of a registry, and what its decisions are worth once another one is.

A learner works while it holds the seat; others stand by. Each tenure has an epoch of its own, higher than all before.
A decision is committed where only the holder of the seat can write, and then carried out in the registry under that
epoch: whatever dies in between, the next one finds it there and carries it out first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Protocol

from filelock import FileLock, Timeout

from cifarctl.errors import AliasConflict, VersionNotFound
from cifarctl.registry import Move, Registry
from cifarctl.registry.files import make_directory, os_errors
from cifarctl.settings import KafkaSettings, Settings
from cifarctl.stream import clients, seat
from cifarctl.stream.records import Partition
from cifarctl.stream.source import Source


class Seat(Protocol):
    """What only one learner has at a time."""

    @property
    def taken(self) -> bool:
        """Whether another one has it, or waits for it; to be asked before `wait`."""
        ...

    @property
    def held(self) -> bool:
        """Whether this one has it, as far as it knows."""
        ...

    @property
    def trouble(self) -> str | None:
        """What keeps the broker from telling whose it is, None while all is well."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait so many seconds for it; whether it is held."""
        ...

    def take(self, on_wait: Callable[[], None]) -> int:
        """Begin a tenure; its epoch.

        Raises:
            Superseded: another one has begun meanwhile.
        """
        ...

    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        """Commit a decision, with the `offsets` up to which `source` has been read, before it is carried out.

        Raises:
            Superseded: this tenure is over.
        """
        ...


class RegistrySeat:
    """A lock of the registry: for a broker without transactions."""

    trouble = None

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = FileLock(registry.dir / "learner" / "lock")

    @property
    def taken(self) -> bool:
        """See Seat."""
        if not self.wait(0):
            return True
        self._lock.release()
        return False

    @property
    def held(self) -> bool:
        """See Seat."""
        return self._lock.is_locked

    def wait(self, timeout_s: float) -> bool:
        """See Seat."""
        if self.held:
            return True
        path = self._registry.dir / "learner"
        make_directory(path)
        with os_errors(path), suppress(Timeout):
            self._lock.acquire(timeout=timeout_s)
        return self.held

    def take(self, on_wait: Callable[[], None]) -> int:  # noqa: ARG002
        """See Seat."""
        epoch = self._registry.next_epoch()
        self._registry.begin_epoch(epoch)
        return epoch

    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        """See Seat; there is nobody else who could decide."""

    def close(self) -> None:
        """Leave the seat to the next one."""
        self._lock.release()


class KafkaSeat:
    """The only partition of the learner's topic, which holds every decision of every tenure."""

    def __init__(self, registry: Registry, kafka: KafkaSettings) -> None:
        self._registry = registry
        self._seat = seat.Seat(kafka)

    @property
    def taken(self) -> bool:
        """See Seat."""
        return self._seat.taken

    @property
    def held(self) -> bool:
        """See Seat."""
        return self._seat.held

    @property
    def trouble(self) -> str | None:
        """See Seat."""
        return self._seat.trouble

    def wait(self, timeout_s: float) -> bool:
        """See Seat."""
        return self._seat.wait(timeout_s)

    def take(self, on_wait: Callable[[], None]) -> int:
        """See Seat; carries out what the one before has decided last."""
        own = [entry for value in self._seat.take(on_wait) if (entry := self._read(value)) is not None]
        if own and isinstance(last := own[-1], Move):
            with suppress(AliasConflict, VersionNotFound):  # somebody has moved the alias since, or removed the version
                self._registry.carry_out(last)
        epoch = self._registry.next_epoch(after=max(map(_epoch, own), default=0))
        self._write({"began": epoch}, on_wait)  # only who can do that has the seat
        self._registry.begin_epoch(epoch)
        return epoch

    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        """See Seat."""
        self._write({"decided": move.model_dump(mode="json")}, on_wait, offsets, source)

    def close(self) -> None:
        """Leave the seat to the next one."""
        self._seat.close()

    @cached_property
    def _name(self) -> str:
        return self._registry.identity()

    def _write(
        self,
        entry: dict[str, Any],
        on_wait: Callable[[], None],
        offsets: Mapping[Partition, int] | None = None,
        source: Source | None = None,
    ) -> None:
        content = {"registry": self._name} | entry
        self._seat.commit(json.dumps(content).encode(), on_wait, offsets, source)

    def _read(self, value: bytes) -> Move | int | None:
        """A decision, or the epoch of a tenure that began; None of anything else and of other registries."""
        try:
            entry = json.loads(value)
            if entry["registry"] != self._name:
                return None
            return int(entry["began"]) if "began" in entry else Move.model_validate(entry["decided"])
        except (ValueError, KeyError, TypeError):
            return None


@contextmanager
def open_seat(settings: Settings) -> Iterator[Seat]:
    """The seat of the settings' registry, on Kafka where transactions are to be had and wanted.

    Raises:
        BrokerError: no broker answers.
    """
    registry = Registry(settings.registry)
    lacking = settings.kafka.delivery == "at-least-once" or clients.check(settings.kafka).embedded
    found = RegistrySeat(registry) if lacking else KafkaSeat(registry, settings.kafka)
    try:
        yield found
    finally:
        found.close()


def _epoch(entry: Move | int) -> int:
    return entry if isinstance(entry, int) else entry.epoch or 0
