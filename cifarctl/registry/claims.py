"""Claims on an alias: the learner of one stream at a time moves it, for as long as it works."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifarctl.errors import AliasClaimed
from cifarctl.registry.files import entries, make_directory, os_errors, replace_file
from cifarctl.registry.layout import LEARNER

CHECKPOINT = "checkpoint-"
RECORD = ".stream.json"
SETTLE_S = 0.5  # time for a process that has just got the lock to record its stream


@dataclass(frozen=True)
class Stream:
    """The stream that a learner's state belongs to: the topics and group that it reads, and the alias that it moves.

    `cluster` is the id of the Kafka cluster, None of an embedded broker, which has no lasting one.
    """

    cluster: str | None
    prefix: str
    group: str
    alias: str

    def __str__(self) -> str:
        where = "" if self.cluster is None else f", Kafka cluster {self.cluster}"
        return f"the topics {self.prefix}.* (group {self.group}{where})"

    @property
    def key(self) -> str:
        """A short name for files."""
        return f"{self.alias}-{hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:12]}"

    @property
    def checkpoint(self) -> str:
        """Name of the file in which its learner keeps its state."""
        return f"{CHECKPOINT}{self.key}.safetensors"

    def to_json(self) -> dict[str, Any]:
        """The JSON-able form that `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: object) -> Stream | None:
        """The stream in that value; None where it holds none."""
        try:
            return cls(**value) if isinstance(value, dict) else None
        except TypeError:
            return None


class Claim:
    """The lock of an alias of the registry in `directory`, with a record of the stream whose learner holds it.

    The operating system releases the lock when its process ends, in whatever way. A suspended process keeps it:
    meanwhile another learner of the same stream may work, as epochs tell which of the two counts; one of another stream
    may not.
    """

    def __init__(self, directory: Path, stream: Stream) -> None:
        """Nothing is claimed yet."""
        self.directory, self.stream = directory, stream
        self._folder = directory / LEARNER
        self._lock = FileLock(self._folder / f"{stream.alias}.lock")
        self._record = self._folder / f"{stream.alias}{RECORD}"

    @property
    def held(self) -> bool:
        """Whether this process holds the claim."""
        return self._lock.is_locked

    def hold(self, timeout_s: float = 0.0) -> bool:
        """Claim the alias within `timeout_s` seconds; False where a learner of the same stream has it.

        Raises:
            AliasClaimed: a learner of another stream has it.
            RegistryError: the folder cannot be written.
        """
        if self.held or self._acquire(timeout_s):
            return True
        if self._holder() in {None, self.stream}:
            return False
        if self._acquire(SETTLE_S):
            return True
        if (holder := self._holder()) in {None, self.stream}:
            return False
        raise AliasClaimed(
            f"the alias {self.stream.alias} in {self.directory} is already moved by the learner of {holder}; a learner "
            f"of {self.stream} needs a registry.dir or a serve.alias of its own"
        )

    def taken(self) -> bool:
        """Whether a learner of this stream works already.

        Raises:
            AliasClaimed: one of another stream does.
        """
        if self.held:
            return False
        if not self.hold():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Release the alias for the next learner."""
        self._lock.release()

    def _acquire(self, timeout_s: float) -> bool:
        make_directory(self._folder)
        with os_errors(self._folder), suppress(Timeout):
            self._lock.acquire(timeout=timeout_s)
        if self.held and self._holder() != self.stream:
            replace_file(self._record, json.dumps(self.stream.to_json()).encode() + b"\n")
        return self.held

    def _holder(self) -> Stream | None:
        return _recorded(self._record)


def deserted(folder: Path) -> list[Path]:
    """Checkpoints in `folder` of streams whose alias was claimed last by another stream's learner.

    None are deserted while the last claim of any alias is unknown.

    Raises:
        RegistryError: the folder cannot be read.
    """
    names = entries(folder)
    streams = [_recorded(folder / name) for name in names if name.endswith(RECORD)]
    kept = {stream.checkpoint for stream in streams if stream is not None}
    if None in streams:
        return []
    return [folder / name for name in names if name.startswith(CHECKPOINT) and name not in kept]


def _recorded(path: Path) -> Stream | None:
    with os_errors(path):
        try:
            return Stream.of_json(json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError):
            return None
