"""Images that wait in memory and, where that is full, the oldest of them in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from cifarctl.stream.join import Entry, Place, Store
from cifarctl.stream.records import Partition

AnswerT = TypeVar("AnswerT")

PAGE = 4096  # bytes: one image a page, so that an image which is taken out leaves a whole one free
SPARE = 32 * PAGE  # more than one image takes, with its places in the indexes
CACHE_KIB = 2048  # memory that SQLite takes

# Nobody ever opens the file again, since after a crash all that waits is read from Kafka once more. So nothing is kept
# for a rollback or waited for until it is on the disk, and all is one transaction, which ends with the file.
SCHEMA = f"""
    PRAGMA page_size = {PAGE};
    PRAGMA cache_size = -{CACHE_KIB};
    PRAGMA auto_vacuum = NONE;
    PRAGMA secure_delete = OFF;
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    BEGIN;
    CREATE TABLE waiting (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, number INTEGER NOT NULL, since REAL NOT NULL,
        topic TEXT, partition INTEGER, offset INTEGER, timestamp_ms INTEGER
    );
    CREATE INDEX places ON waiting (topic, partition, offset, timestamp_ms);
    CREATE TABLE images (seq INTEGER PRIMARY KEY, pixels BLOB NOT NULL);
    CREATE TRIGGER gone AFTER DELETE ON waiting BEGIN DELETE FROM images WHERE seq = OLD.seq; END;
"""


class Image(NamedTuple):
    """An image that waits: the number that it came with, and its pixels (3, 32, 32) uint8."""

    number: int
    pixels: bytes


class ImageStore(Store[Image]):
    """A store of images; those that do not fit into memory, the oldest, go to a file until that is full too.

    Where the file cannot be written or read it is given up with all that is in it: these are the oldest images, and a
    full disk has room again for checkpoints, which need it more. `failure` says why; memory is all there is from then
    on.
    """

    def __init__(self, max_bytes: int, wait_s: float, *, disk_bytes: int = 0, folder: Path | None = None) -> None:
        """`disk_bytes`: of the file in `folder` (default: that of temporary files), at most; 0 = none."""
        super().__init__(max_bytes, wait_s)
        self.failure: str | None = None
        self._file: _File | None = None
        if disk_bytes:
            try:
                self._file = _File(folder, disk_bytes)
            except (sqlite3.Error, OSError) as error:
                self.failure = str(error)

    def close(self) -> None:
        """Delete the file, and what is in it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return super().__len__() + (0 if self._file is None else len(self._file))

    def __contains__(self, id: str) -> bool:
        return super().__contains__(id) or self._ask(lambda file: id in file, False)

    def __getitem__(self, id: str) -> Image:
        item = self._entries[id].item if id in self._entries else self._ask(lambda file: file.fetch(id), None)
        if item is None:
            raise KeyError(id)
        return item

    @property
    def fill(self) -> float:
        """Share of the bytes allowed, in memory and on disk together, that are in use."""
        used, allowed = self._ask(lambda file: (file.used, file.max_bytes), (0, 0))
        return (self._bytes + used) / (self._max_bytes + allowed)

    def numbers(self, most: int) -> dict[str, int]:
        """Which number each of the newest `most` came with, by id, oldest first."""
        newest = islice(reversed(self._entries.items()), most)
        found = [(id, entry.item.number) for id, entry in newest]
        found += self._ask(lambda file: file.numbers(most - len(found)), [])
        return dict(reversed(found))

    def pop(self, id: str) -> Image | None:
        """Take an entry out; None where there is none."""
        item = super().pop(id)
        return self._ask(lambda file: file.pop(id), None) if item is None else item

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        super().expire(now)
        self.expired += self._ask(lambda file: file.expire(now, self._wait_s), 0)

    def forget(self, partitions: Set[Partition]) -> None:
        """Take out what was read from `partitions`; that is no drop."""
        super().forget(partitions)
        self._ask(lambda file: file.forget(partitions), None)

    def low_water(self, low: dict[Partition, int], not_before_ms: int | None) -> None:
        """Lower `low` to the lowest offset of each partition that has an entry; see `Join.low_water`."""
        super().low_water(low, not_before_ms)
        self._ask(lambda file: file.low_water(low, not_before_ms), None)

    def _displace(self, id: str, entry: Entry[Image]) -> None:
        gone = self._ask(lambda file: file.put(id, entry.item, entry.since, entry.place), 1)
        self.displaced += gone

    def _ask(self, question: Callable[[_File], AnswerT], otherwise: AnswerT) -> AnswerT:
        """What the file answers, `otherwise` where there is none or it has just been given up."""
        if self._file is None:
            return otherwise
        try:
            return question(self._file)
        except (sqlite3.Error, OSError) as error:
            self.failure = str(error)
            self.displaced += len(self._file)
            self.close()
            return otherwise


class _File:
    """Images in the order in which they are put in; beyond `max_bytes` the first go.

    Once it is open the file has no name any more, where the system allows that: it goes even with a process that is
    killed. All methods but `close` may raise sqlite3.Error, after which nothing but `close` is of any use.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """Make the file; also raises OSError."""
        self.max_bytes = max_bytes
        self._count = 0
        descriptor, name = tempfile.mkstemp(prefix="waiting-", suffix=".sqlite", dir=folder)
        os.close(descriptor)
        self._path = Path(name)
        try:
            # A generator that has it open may be closed by another thread than the one that runs it.
            self._db = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        finally:
            self._unlink()
        try:
            self._db.executescript(SCHEMA)
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()
        self._unlink()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: str) -> bool:
        return self._db.execute("SELECT 1 FROM waiting WHERE id = ?", (id,)).fetchone() is not None

    @property
    def used(self) -> int:
        """Bytes in use; the file has more only where some have become free."""
        (pages,), (free,) = (self._db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
        return int(pages - free) * PAGE

    def put(self, id: str, image: Image, since: float, place: Place | None) -> int:
        """Add an image; how many had to go for it."""
        gone = 0
        while self._count and self.used > self.max_bytes - SPARE:
            gone += self._delete("seq = (SELECT MIN(seq) FROM waiting)")
        row = (id, image.number, since, *(place or (None,) * 4))
        added = self._db.execute("INSERT INTO waiting VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
        self._db.execute("INSERT INTO images VALUES (?, ?)", (added.lastrowid, image.pixels))
        self._count += 1
        return gone

    def fetch(self, id: str) -> Image | None:
        row = self._db.execute("SELECT number, pixels FROM waiting JOIN images USING (seq) WHERE id = ?", (id,))
        return next((Image(*found) for found in row), None)

    def pop(self, id: str) -> Image | None:
        image = self.fetch(id)
        if image is not None:
            self._delete("id = ?", id)
        return image

    def expire(self, now: float, wait_s: float) -> int:
        """Delete what has waited for more than `wait_s` seconds; how many that were."""
        first = "SELECT seq FROM waiting WHERE ? - since <= ? ORDER BY seq LIMIT 1"
        return self._delete(f"seq < ifnull(({first}), {2**63 - 1})", now, wait_s)

    def forget(self, partitions: Set[Partition]) -> None:
        for partition in partitions:
            self._delete("topic = ? AND partition = ?", *partition)

    def low_water(self, low: dict[Partition, int], not_before_ms: int | None) -> None:
        rows = self._db.execute(
            "SELECT topic, partition, MIN(offset) FROM waiting "
            "WHERE topic NOTNULL AND (timestamp_ms < 0 OR timestamp_ms >= ?) GROUP BY topic, partition",
            (not_before_ms or 0,),
        )
        for topic, number, offset in rows:
            low[topic, number] = min(offset, low.get((topic, number), offset))

    def numbers(self, most: int) -> list[tuple[str, int]]:
        """Ids and numbers of the newest `most`, newest first."""
        return self._db.execute("SELECT id, number FROM waiting ORDER BY seq DESC LIMIT ?", (most,)).fetchall()

    def _delete(self, where: str, *values: object) -> int:
        count = self._db.execute(f"DELETE FROM waiting WHERE {where}", values).rowcount
        self._count -= count
        return count

    def _unlink(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
