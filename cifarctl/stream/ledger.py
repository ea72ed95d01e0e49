"""The ledger of `verify-stream`: the inputs of a partition, and which of them have been answered."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

import orjson

from cifarctl.stream import codecs, letters
from cifarctl.stream.browse import Place
from cifarctl.stream.identity import Range
from cifarctl.stream.predictions import decode_prediction
from cifarctl.stream.records import Record

MAX_EXAMPLES = 10
MAX_COUNT = 255  # of answers to one input
UNKNOWN = 0  # no digest, so not comparable


def digest(data: bytes | None) -> int:
    """64 bits of SHA-256, never 0."""
    return int.from_bytes(hashlib.sha256(data or b"").digest()[:8], "big") or 1


class Findings:
    """Counts of each kind of problem, and the first few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, kind: str, story: str, count: int = 1) -> None:
        """Count a problem of this `kind`."""
        self.counts[kind] += count
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(story)


class Partition:
    """The input records of one partition, 33 bytes each, and the group's committed offset there.

    Everything below `end` is committed or aborted; everything below `oldest` has aged out.
    """

    def __init__(self, oldest: int, end: int, place: Place | None) -> None:
        self.oldest, self.end, self.place = oldest, end, place
        self.offsets = array("q")
        self._keys = array("Q")
        self._ids = array("Q")
        self._bodies = array("Q")
        self.answers = bytearray()

    @property
    def committed(self) -> int:
        """The next offset that the group will read; 0 if it has committed none."""
        return self.place.offset if self.place is not None else 0

    def deliver(self, record: Record) -> None:
        """Take in the next record."""
        image_id = codecs.id_of(record)
        self.offsets.append(record.offset)
        self.end = max(self.end, record.offset + 1)
        self._keys.append(digest(record.key))
        self._ids.append(UNKNOWN if image_id is None else digest(image_id.encode("utf-8", "replace")))
        self._bodies.append(digest(record.value))
        self.answers.append(0)

    def find(self, offset: int) -> int | None:
        """The index of the record with this offset; None if there is none."""
        index = bisect_left(self.offsets, offset)
        return index if index < len(self.offsets) and self.offsets[index] == offset else None

    def same(self, index: int, answer: Answer) -> bool:
        """Whether this is the record that was answered; True if that is unknown."""
        known = (self._bodies if answer.of_body else self._ids)[index]
        return UNKNOWN in (known, answer.digest) or known == answer.digest

    def answer(self, index: int) -> None:
        """Count an answer to the record at `index`."""
        self.answers[index] = min(MAX_COUNT, self.answers[index] + 1)

    def skipped(self, offset: int) -> bool:
        """Whether the group has skipped this offset on purpose."""
        ranges: tuple[Range, ...] = self.place.mark.skipped if self.place is not None else ()
        return any(first <= offset < end for first, end in ranges)

    def unanswered(self) -> Iterator[tuple[int, int, int]]:
        """Offset and digests of id and key of each record below the committed offset that has no answer."""
        for index in range(bisect_left(self.offsets, self.committed)):
            if not self.answers[index]:
                yield self.offsets[index], self._ids[index], self._keys[index]


class Answer:
    """The input that one prediction or dead letter answers: its offset, and the digest of its id or of its bytes."""

    def __init__(self, number: int, offset: int, input_digest: int, *, of_body: bool) -> None:
        self.number, self.offset, self.digest, self.of_body = number, offset, input_digest, of_body

    @classmethod
    def of_letter(cls, record: Record, images: str) -> Answer | None:
        """Read a dead letter; None if it is not about the topic `images`."""
        letter = letters.read_letter(record)
        if letter is None or letter.source is None or letter.source.topic != images:
            return None
        body_digest = _digested(record.value) if letter.digested else digest(record.value)
        return cls(letter.source.partition, letter.source.offset, body_digest, of_body=True)

    @classmethod
    def of_prediction(cls, record: Record) -> Answer | None:
        """Read a prediction; None if the record is something else."""
        try:
            prediction = decode_prediction(record.value)
        except ValueError:
            return None
        id_digest = digest(prediction.id.encode("utf-8", "replace"))
        return cls(prediction.partition, prediction.offset, id_digest, of_body=False)


def _digested(value: bytes | None) -> int:
    """The digest of the original bytes of a digested letter."""
    try:
        body = orjson.loads(value or b"")
        return int(str(body["sha256"])[:16], 16) or 1
    except (ValueError, TypeError, KeyError):
        return UNKNOWN
