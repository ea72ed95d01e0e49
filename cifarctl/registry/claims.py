"""Whose learner moves an alias: that of one stream at a time, which has the alias as long as it works."""

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

CHECKPOINT = "checkpoint-"
RECORD = ".stream.json"
SETTLE_S = 0.5  # who has just got the lock has written down by then whose it is


@dataclass(frozen=True)
class Stream:
    """What a learner's state belongs to: the topics and the group that it reads, and the alias that it moves.

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
        """What `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: object) -> Stream | None:
        """None where that is no stream."""
        try:
            return cls(**value) if isinstance(value, dict) else None
        except TypeError:
            return None


class Claim:
    """The lock of an alias of the registry in `directory`, and beside it whose learner holds it.

    The operating system takes the lock from a process that ends, in whatever way. A process that was suspended keeps
    it: of the same stream others may work meanwhile, since an epoch tells which of them counts; of others none may.
    """

    def __init__(self, directory: Path, stream: Stream) -> None:
        """Nothing is claimed yet."""
        self.directory, self.stream = directory, stream
        self._folder = directory / "learner"
        self._lock = FileLock(self._folder / f"{stream.alias}.lock")
        self._record = self._folder / f"{stream.alias}{RECORD}"

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock.is_locked

    def hold(self, timeout_s: float = 0.0) -> bool:
        """Claim the alias, within so many seconds; False where a learner of the same stream has it.

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
        """Leave the alias to the next one."""
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
    """Checkpoints in `folder` of streams whose learner was not the last one of its alias.

    They are none while it is not known of each alias which stream's learner that was.

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
