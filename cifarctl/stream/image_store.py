"""Images that wait for their labels: in memory and, once that is full, the oldest of them in a SQLite file."""

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

PAGE = 4096  # bytes: one image a page, so that removing an image frees a whole page
SPARE = 32 * PAGE  # more than one image takes, with its index entries
CACHE_KIB = 2048  # SQLite's page cache

# The file is never opened again: after a crash all waiting images are read from Kafka once more. So there is no journal
# and no sync to disk, and one transaction lasts as long as the file.
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
    """An image that waits: its number in the order of arrival, and its pixels (3, 32, 32) uint8."""

    number: int
    pixels: bytes


class ImageStore(Store[Image]):
    """A store of images; when memory is full, the oldest move to a file, until that is full too.

    If the file cannot be written or read, it is deleted with the images in it. These are the oldest ones, and the space
    on a full disk is needed more for checkpoints. `failure` says why; from then on there is only memory.
    """

    def __init__(self, max_bytes: int, wait_s: float, *, disk_bytes: int = 0, folder: Path | None = None) -> None:
        """`disk_bytes`: the largest file in `folder` (default: the system's temporary folder); 0 = no file."""
        super().__init__(max_bytes, wait_s)
        self.failure: str | None = None
        self._file: _File | None = None
        if disk_bytes:
            try:
                self._file = _File(folder, disk_bytes)
            except (sqlite3.Error, OSError) as error:
                self.failure = str(error)

    def close(self) -> None:
        """Delete the file and the images in it."""
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
        """Share of the bytes allowed, in memory and on disk together, that is in use."""
        used, allowed = self._ask(lambda file: (file.used, file.max_bytes), (0, 0))
        return (self._bytes + used) / (self._max_bytes + allowed)

    def numbers(self, most: int) -> dict[str, int]:
        """The numbers of the newest `most` images by id, oldest first."""
        newest = islice(reversed(self._entries.items()), most)
        found = [(id, entry.item.number) for id, entry in newest]
        found += self._ask(lambda file: file.numbers(most - len(found)), [])
        return dict(reversed(found))

    def pop(self, id: str) -> Image | None:
        """Remove an image and return it; None if there is none."""
        item = super().pop(id)
        return self._ask(lambda file: file.pop(id), None) if item is None else item

    def expire(self, now: float) -> None:
        """Drop images that have waited too long."""
        super().expire(now)
        self.expired += self._ask(lambda file: file.expire(now, self._wait_s), 0)

    def forget(self, partitions: Set[Partition]) -> None:
        """Remove images read from `partitions`, without counting them as dropped."""
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
        """Ask the file; `otherwise` if there is none or it has just failed."""
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
    """Images in the order in which they are added; beyond `max_bytes` the first are dropped.

    Where the system allows it, the file is unlinked as soon as it is open, so that it vanishes even with a killed
    process. All methods but `close` may raise sqlite3.Error, after which only `close` may be called.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """Create the file; also raises OSError."""
        self.max_bytes = max_bytes
        self._count = 0
        descriptor, name = tempfile.mkstemp(prefix="waiting-", suffix=".sqlite", dir=folder)
        os.close(descriptor)
        self._path = Path(name)
        try:
            # A generator that uses it may be closed by another thread than the one that runs it.
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
        """Bytes in use; the file also keeps pages that have become free."""
        (pages,), (free,) = (self._db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
        return int(pages - free) * PAGE

    def put(self, id: str, image: Image, since: float, place: Place | None) -> int:
        """Add an image; returns how many were dropped for it."""
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
        """Delete images that have waited for more than `wait_s` seconds; returns how many."""
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
