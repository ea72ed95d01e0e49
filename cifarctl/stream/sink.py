"""The interface of a sink, whatever its delivery guarantee."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from cifarctl.stream.records import DeadLetter, Record

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

#: Unacknowledged messages beyond which nothing more should be read.
MAX_PENDING = 20_000


class Commit(enum.Enum):
    """The outcome of an attempt to commit."""

    DONE = enum.auto()
    #: The broker has not answered in time: send nothing more, and call `commit` again.
    PENDING = enum.auto()
    #: Nothing that was sent since the last commit counts, and its records are to be read again.
    UNDONE = enum.auto()


class Sink(Protocol):
    """Where results go. Everything sent and tracked since the last commit succeeds or fails with the next one."""

    delivery: str
    commits: int
    undone: int

    @property
    def pending(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a commit is in progress, so that nothing may be sent."""
        ...

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue one result; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        ...

    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        """Queue a dead letter, in a form that `topic` accepts.

        Raises:
            BrokerError: the message is refused at once.
        """
        ...

    def limit(self, topic: str) -> int:
        """The largest message that `topic` is known to accept, in bytes as `sizes.wire_size` counts."""
        ...

    def track(self, records: Iterable[Record]) -> None:
        """Remember `records` as handled: all their results have been passed to `send`."""
        ...

    @property
    def commit_size(self) -> int:
        """The most records that one commit should cover."""
        ...

    @property
    def full(self) -> bool:
        """Whether that many records are tracked: commit before sending anything more."""
        ...

    def due(self) -> bool:
        """Whether it is time to commit, by `kafka.commit_interval_ms`, `kafka.commit_messages` and `commit_size`."""
        ...

    def news(self) -> list[str]:
        """Lines for people since the last call, about whether the broker keeps up."""
        ...

    def commit(self, timeout_s: float | None = None) -> Commit:
        """Commit everything sent and tracked, trying for `timeout_s` seconds (default: `kafka.timeout_s`).

        Raises:
            BrokerError: the broker refuses for good; no offset has moved.
        """
        ...

    def undo(self) -> None:
        """Discard everything sent since the last commit; the next `commit` reports when that is done."""
        ...

    def close(self) -> None:
        """Discard everything uncommitted, so that no reader has to wait for it."""
        ...
