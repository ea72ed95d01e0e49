"""The messages of the dead letters topic: bad input with its reason, and what has been sent back of it.

A letter is the original message with headers added. A letter that has been sent back is followed, somewhere in the
same topic, by a receipt: a message whose header `REPLAYED` names the letter's place.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

import orjson

from cifarctl.stream.records import DeadLetter, Headers, Record

#: Brokers refuse messages beyond 1 MiB by default; a dead letter larger than this travels as a digest.
MAX_LETTER_BYTES = 900_000
DIGEST_HEAD_BYTES = 4096
#: Key and headers of a digested letter are kept up to this size, each.
MAX_KEPT_BYTES = 16_384
MAX_MESSAGE_CHARACTERS = 500
#: Upper bound of what a header takes on the wire beside its name and value.
HEADER_OVERHEAD_BYTES = 12

OWN = "cifarctl."
DIGEST = "cifarctl.digest"
REPLAYED = "cifarctl.replayed"
REPLAYED_FROM = "cifarctl.replayed-from"

_PLACE = re.compile(rb"([0-9]{1,10}):([0-9]{1,19})")


@dataclass(frozen=True)
class Source:
    """Where a message lay before it failed."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Letter:
    """A message read from the dead letters; `source` is None where its headers do not say."""

    record: Record
    error: str
    message: str
    stage: str
    source: Source | None
    digested: bool

    @property
    def original_headers(self) -> Headers:
        """The headers that the message had before cifarctl added its own."""
        return [(name, text) for name, text in self.record.headers if not name.startswith(OWN)]


def dead_letter_headers(letter: DeadLetter) -> Headers:
    """The original headers, then why and where from."""
    return [*letter.record.headers, *_reasons(letter)]


def dead_letter_message(letter: DeadLetter) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers to send to the dead letters.

    The original bytes; a message near the broker's size limit would be refused for its added headers, so that
    one travels as a JSON digest: its size, its SHA-256, its first kilobytes and where the original lies. Key and
    headers go with it unless they are what is large. Its header `DIGEST` tells it from a message of such bytes.
    """
    record, headers = letter.record, dead_letter_headers(letter)
    key, value = record.key, record.value
    if len(key or b"") + len(value or b"") + _size(headers) <= MAX_LETTER_BYTES:
        return key, value, headers
    body = value or b""
    sha256 = hashlib.sha256(body).hexdigest()
    digest = {
        "size": len(body),
        "sha256": sha256,
        "head": base64.b64encode(body[:DIGEST_HEAD_BYTES]).decode("ascii"),
        "source": {"topic": record.topic, "partition": record.partition, "offset": record.offset},
    }
    short = key if key is None or len(key) <= MAX_KEPT_BYTES else None
    kept = list(record.headers) if _size(record.headers) <= MAX_KEPT_BYTES else []
    return short, orjson.dumps(digest), [*kept, *_reasons(letter), (DIGEST, sha256.encode())]


def read_letter(record: Record) -> Letter | None:
    """The letter that a message of the dead letters topic is; None for a receipt.

    A message that somebody else has put there is a letter too, as far as its headers tell.
    """
    headers = dict(record.headers)  # the last of a name, which is the one that cifarctl has added
    if REPLAYED in headers:
        return None
    topic, partition, offset = (_text(headers, f"cifarctl.source.{name}") for name in ("topic", "partition", "offset"))
    whole = topic and re.fullmatch("[0-9]{1,10}", partition) and re.fullmatch("[0-9]{1,19}", offset)
    return Letter(
        record,
        error=_text(headers, "cifarctl.error.class") or "unknown",
        message=_text(headers, "cifarctl.error.message"),
        stage=_text(headers, "cifarctl.error.stage"),
        source=Source(topic, int(partition), int(offset)) if whole else None,
        digested=DIGEST in headers,
    )


def is_digest_of(digest: bytes | None, value: bytes | None) -> bool:
    """Whether the value of a digested letter was made of this one."""
    try:
        body = orjson.loads(digest or b"")
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("sha256") == hashlib.sha256(value or b"").hexdigest()


def receipt(partition: int, offset: int) -> Headers:
    """The headers that say of the letter at this place that it has been sent back; the receipt has no value."""
    return [(REPLAYED, place(partition, offset))]


def receipt_for(record: Record) -> tuple[int, int] | None:
    """Partition and offset of the letter for which `record` is the receipt; None where it is none."""
    found = _PLACE.fullmatch(dict(record.headers).get(REPLAYED) or b"")
    return (int(found.group(1)), int(found.group(2))) if found else None


def place(partition: int, offset: int) -> bytes:
    """``partition:offset``."""
    return b"%d:%d" % (partition, offset)


def _reasons(letter: DeadLetter) -> Headers:
    record = letter.record
    return [
        ("cifarctl.error.class", letter.error.encode("utf-8", "replace")),
        ("cifarctl.error.message", letter.message[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace")),
        ("cifarctl.error.stage", letter.stage.encode()),
        ("cifarctl.source.topic", record.topic.encode()),
        ("cifarctl.source.partition", b"%d" % record.partition),
        ("cifarctl.source.offset", b"%d" % record.offset),
    ]


def _size(headers: Headers | tuple[tuple[str, bytes | None], ...]) -> int:
    """Upper bound of the bytes that `headers` take on the wire."""
    size = HEADER_OVERHEAD_BYTES * len(headers)
    for name, text in headers:
        size += len(name) if name.isascii() else len(name.encode())
        if text is not None:
            size += len(text)
    return size


def _text(headers: dict[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode("utf-8", "replace")
