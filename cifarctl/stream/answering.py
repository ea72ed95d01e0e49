"""What whoever answers may expect of a sink, however it delivers."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from cifarctl.stream.records import DeadLetter, Record

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


class Commit(enum.Enum):
    """What came of an attempt to commit."""

    DONE = enum.auto()
    #: The broker does not answer in time: send nothing more, call `commit` again.
    PENDING = enum.auto()
    #: Nothing of what was sent since the last commit counts, and its records will be read again.
    UNDONE = enum.auto()


class Sink(Protocol):
    """Where results go. Everything sent and tracked since the last commit stands or falls with the next one."""

    delivery: str
    commits: int
    undone: int

    @property
    def pending(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a commit is under way, so that nothing may be sent."""
        ...

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue one result; waits while the queue is full.

        Raises:
            BrokerError: the message is refused at once, for example for its size.
        """
        ...

    def send_letter(self, topic: str, letter: DeadLetter) -> None:
        """Queue a dead letter, in a form that `topic` takes.

        Raises:
            BrokerError: the message is refused at once.
        """
        ...

    def limit(self, topic: str) -> int:
        """The largest message that `topic` takes, as far as that is known, in bytes as `sizes.wire_size` counts."""
        ...

    def track(self, records: Iterable[Record]) -> None:
        """Remember `records` as handled: everything that came of them has been passed to `send`."""
        ...

    @property
    def portion(self) -> int:
        """How many records should stand or fall together, at most."""
        ...

    @property
    def full(self) -> bool:
        """Whether so many are tracked already: commit before anything more is sent."""
        ...

    def due(self) -> bool:
        """Whether it is time to commit, by `kafka.commit_interval_ms`, `kafka.commit_messages` and `portion`."""
        ...

    def news(self) -> list[str]:
        """Lines for people since the last call: how the broker keeps up."""
        ...

    def commit(self, timeout_s: float | None = None) -> Commit:
        """Commit what was sent and tracked, trying for `timeout_s` seconds (default: `kafka.timeout_s`).

        Raises:
            BrokerError: the broker refuses for good; no offset has moved.
        """
        ...

    def undo(self) -> None:
        """Give up what was sent since the last commit; the next `commit` tells when that is done."""
        ...

    def close(self) -> None:
        """Give up what is not committed, so that nobody has to wait for it."""
        ...
