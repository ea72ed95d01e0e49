"""Leader election among learners: only the leader of a stream and alias learns and decides.

Other learners of the same stream stand by; those of other streams are refused. Each term of leadership has its own
epoch, higher than all before. A decision is committed to a log that only the leader can write, and then carried out in
the registry under that epoch. If the leader dies in between, the next one finds the decision in the log and carries it
out first.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Protocol

from typing_extensions import override

from cifarctl.errors import AliasClaimed, AliasConflict, VersionNotFound
from cifarctl.registry import Move, Registry
from cifarctl.registry.claims import Claim, Stream
from cifarctl.settings import KafkaSettings, Settings
from cifarctl.stream import clients, leader_election
from cifarctl.stream.records import Partition
from cifarctl.stream.source import Source

CLAIM_INTERVAL_S = 1.0  # between two checks of whether a suspended process has released the claim


class Leadership(Protocol):
    """Leadership among the learners of a stream; only one process holds it at a time.

    `taken`, `wait`, `working` and `take` raise AliasClaimed if the learner of another stream moves the alias.
    """

    stream: Stream

    @property
    def taken(self) -> bool:
        """Whether another process has it or waits for it; to be asked before `wait`."""
        ...

    @property
    def working(self) -> bool:
        """Whether another learner of the stream works on the alias; to be asked while this one does not."""
        ...

    @property
    def held(self) -> bool:
        """Whether this process has it, as far as it knows."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot say who the leader is; None while it can."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for leadership; returns whether it is held."""
        ...

    def take(self, on_wait: Callable[[], None]) -> int:
        """Begin a term; returns its epoch.

        Raises:
            Superseded: another leader has begun meanwhile.
        """
        ...

    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        """Commit a decision, together with the offsets up to which `source` was read, before it is carried out.

        Raises:
            Superseded: this term is over.
        """
        ...


class RegistryLeadership(Leadership):
    """Leadership by claiming the alias in the registry: for brokers without transactions."""

    trouble = None

    def __init__(self, registry: Registry, stream: Stream) -> None:
        self.stream = stream
        self._registry = registry
        self._claim = Claim(registry.dir, stream)

    @property
    @override
    def taken(self) -> bool:
        return self._claim.taken()

    @property
    @override
    def working(self) -> bool:
        return self._claim.taken()

    @property
    @override
    def held(self) -> bool:
        return self._claim.held

    @override
    def wait(self, timeout_s: float) -> bool:
        return self._claim.hold(timeout_s)

    @override
    def take(self, on_wait: Callable[[], None]) -> int:
        epoch = self._registry.next_epoch(alias=self.stream.alias)
        self._registry.begin_epoch(epoch, alias=self.stream.alias)
        return epoch

    @override
    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        """Nobody else can decide."""

    def close(self) -> None:
        """Give up leadership."""
        self._claim.release()


class KafkaLeadership(Leadership):
    """Leadership by owning the only partition of the learner's topic, which logs every decision of every term.

    The alias's claim keeps away learners of other streams, which have other topics. If a suspended process still has
    the claim, it is taken over as soon as that process releases it.
    """

    def __init__(self, registry: Registry, kafka: KafkaSettings, stream: Stream) -> None:
        self.stream = stream
        self._registry = registry
        self._candidate = leader_election.Candidate(kafka)
        self._claim = Claim(registry.dir, stream)
        self._ask_at = math.inf  # when to ask for the claim again, in a term that began without it

    @property
    @override
    def taken(self) -> bool:
        self._claim.taken()  # raises if another stream has it
        return self._candidate.taken

    @property
    @override
    def working(self) -> bool:
        return self._claim.taken()

    @property
    @override
    def held(self) -> bool:
        if not self._candidate.held:
            return False
        try:
            if time.monotonic() >= self._ask_at:
                self._ask_at = math.inf if self._claim.hold() else time.monotonic() + CLAIM_INTERVAL_S
        except AliasClaimed:  # another stream took it when the suspended process ended
            return False
        return True

    @property
    @override
    def trouble(self) -> str | None:
        return self._candidate.trouble

    @override
    def wait(self, timeout_s: float) -> bool:
        return self._candidate.wait(timeout_s)

    @override
    def take(self, on_wait: Callable[[], None]) -> int:
        """Carries out the previous leader's last decision first."""
        self._ask_at = math.inf if self._claim.hold() else time.monotonic() + CLAIM_INTERVAL_S
        own = [entry for value in self._candidate.take(on_wait) if (entry := self._read(value)) is not None]
        if own and isinstance(last := own[-1], Move):
            with suppress(AliasConflict, VersionNotFound):  # the alias was moved or the version removed since
                self._registry.carry_out(last)
        alias = self.stream.alias
        epoch = self._registry.next_epoch(after=max(map(_epoch, own), default=0), alias=alias)
        self._write({"began": epoch}, on_wait)  # only the leader can
        self._registry.begin_epoch(epoch, alias=alias)
        return epoch

    @override
    def commit(self, move: Move, offsets: Mapping[Partition, int], source: Source, on_wait: Callable[[], None]) -> None:
        self._write({"decided": move.model_dump(mode="json")}, on_wait, offsets, source)

    def close(self) -> None:
        """Give up leadership."""
        self._candidate.close()
        self._claim.release()

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
        self._candidate.commit(json.dumps(content).encode(), on_wait, offsets, source)

    def _read(self, value: bytes) -> Move | int | None:
        """A decision, or the epoch of a term; None for anything else and for entries of other registries."""
        try:
            entry = json.loads(value)
            if entry["registry"] != self._name:
                return None
            return int(entry["began"]) if "began" in entry else Move.model_validate(entry["decided"])
        except (ValueError, KeyError, TypeError):
            return None


@contextmanager
def open_leadership(settings: Settings) -> Iterator[Leadership]:
    """Leadership of the settings' alias and stream; on Kafka if transactions are available and wanted.

    Raises:
        BrokerError: no broker answers.
    """
    registry = Registry(settings.registry)
    broker = clients.check(settings.kafka)
    stream = stream_of(settings, broker)
    lacking = settings.kafka.delivery == "at-least-once" or broker.embedded
    found = RegistryLeadership(registry, stream) if lacking else KafkaLeadership(registry, settings.kafka, stream)
    try:
        yield found
    finally:
        found.close()


def stream_of(settings: Settings, broker: clients.Broker) -> Stream:
    """The stream that a learner with these settings learns from, and the alias that it moves."""
    cluster = None if broker.embedded else broker.cluster_id
    return Stream(cluster, settings.kafka.topic_prefix, settings.kafka.group_id, settings.serve.alias)


def _epoch(entry: Move | int) -> int:
    return entry if isinstance(entry, int) else entry.epoch or 0
