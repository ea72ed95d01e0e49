"""The messages of the dead-letter topic: bad input with its reason, and receipts for letters that were replayed.

A letter is the original message with headers added. A replayed letter is followed, somewhere in the same topic, by a
receipt: a message whose header `REPLAYED` has the letter's partition and offset. A compacted topic accepts only
messages with a key: there, a message without one gets a unique key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from cifarctl.stream.records import DeadLetter, Headers, Record
from cifarctl.stream.sizes import wire_size

#: Brokers and clients refuse more than 1 MB by default; a larger dead letter is always sent as a digest.
MAX_LETTER_BYTES = 900_000
DIGEST_HEAD_BYTES = 4096
SHORT_HEAD_BYTES = 256
#: A digested letter keeps its key and its headers if they are no larger than this, each.
MAX_KEPT_BYTES = 16_384
MAX_MESSAGE_CHARACTERS = 500
#: Characters from the end of the source topic's name in a generated key: more than the part after the prefix.
OWN_KEY_TOPIC_CHARACTERS = 64

OWN = "cifarctl."
DIGEST = "cifarctl.digest"
KEYLESS = "cifarctl.keyless"  # the letter's key is generated; the message had none
REPLAYED = "cifarctl.replayed"
REPLAYED_FROM = "cifarctl.replayed-from"

#: The error classes that cifarctl writes; other programs may write others to the same topic.
CLASSES = frozenset({
    "AnswerTooLarge", "BadBase64", "BadPicture", "HeadersUnread", "IdNotText", "IdTooLong", "ImageNotText",
    "LabelNotInteger", "LabelOutOfRange", "MissingId", "MissingImage", "MissingLabel", "NotAnObject", "NotJson",
    "NullValue", "PictureTooLarge", "PixelsNotFinite", "PixelsOutOfRange", "TooLarge", "UnsupportedContentType",
    "WrongLength",
})  # fmt: skip

#: Key, value and headers.
Message: TypeAlias = tuple[bytes | None, bytes | None, Headers]

_PLACE = re.compile(rb"([0-9]{1,10}):([0-9]{1,19})")


@dataclass(frozen=True)
class Source:
    """Where a bad message came from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Letter:
    """A message read from the dead-letter topic; `source` is None if its headers do not name it."""

    record: Record
    error: str
    message: str
    stage: str
    source: Source | None
    digested: bool

    @property
    def original_headers(self) -> Headers:
        """The message's headers before cifarctl added its own."""
        return [(name, text) for name, text in self.record.headers if not name.startswith(OWN)]

    @property
    def original_key(self) -> bytes | None:
        """The message's own key; also None if a digest has left it out."""
        return None if KEYLESS in dict(self.record.headers) else self.record.key


def dead_letter_headers(letter: DeadLetter) -> Headers:
    """The original headers, then the reason and the source."""
    return [*letter.record.headers, *_reasons(letter)]


def dead_letter_message(letter: DeadLetter, limit: int = MAX_LETTER_BYTES, *, keyed: bool = False) -> Message:
    """Key, value and headers to send to the dead-letter topic: at most `limit` bytes, as `sizes.wire_size` counts.

    The value is the original. If the added headers would exceed the topic's limit, it is replaced by a JSON digest:
    size, SHA-256, first kilobytes and source of the original. The digest keeps key and headers unless they are too
    large, and is marked by its header `DIGEST`. If even that is too large, more is left out, down to size, hash and
    source, which fit into `limits.MIN_BYTES`. With `keyed` there is always a key.
    """
    record = letter.record
    message = _whole(letter, (record.key, record.value, dead_letter_headers(letter)), keyed)
    if wire_size(*message) <= min(limit, MAX_LETTER_BYTES):
        return message
    key = record.key if record.key is None or len(record.key) <= MAX_KEPT_BYTES else None
    kept = list(record.headers) if wire_size(None, None, record.headers) <= MAX_KEPT_BYTES else []
    for digest in (
        _digest(letter, key, kept, DIGEST_HEAD_BYTES),
        _digest(letter, key, [], DIGEST_HEAD_BYTES),
        _digest(letter, key, [], SHORT_HEAD_BYTES),
        _digest(letter, None, [], SHORT_HEAD_BYTES),
    ):
        message = _whole(letter, digest, keyed)
        if wire_size(*message) <= limit:
            return message
    return _whole(letter, _digest(letter._replace(message=""), None, [], None), keyed)


def _whole(letter: DeadLetter, message: Message, keyed: bool) -> Message:
    """The message, with a unique key if it needs one and has none, so that compaction never replaces it."""
    key, value, headers = message
    if key is not None or not keyed:
        return message
    topic, partition, offset, *_ = letter.record
    return (
        b"%s:%d:%d" % (topic[-OWN_KEY_TOPIC_CHARACTERS:].encode(), partition, offset),
        value,
        [*headers, (KEYLESS, b"")],
    )


def _digest(letter: DeadLetter, key: bytes | None, kept: Headers, head: int | None) -> Message:
    """The digest with the first `head` bytes; None also leaves out the source, which is in the headers."""
    record, body = letter.record, letter.record.value or b""
    sha256 = hashlib.sha256(body).hexdigest()
    digest: dict[str, object] = {"size": len(body), "sha256": sha256}
    if head is not None:
        digest["head"] = base64.b64encode(body[:head]).decode("ascii")
        digest["source"] = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return key, orjson.dumps(digest), [*kept, *_reasons(letter), (DIGEST, sha256.encode())]


def read_letter(record: Record) -> Letter | None:
    """Read a message of the dead-letter topic; None for a receipt.

    A message from another program is a letter too, described by its own headers.
    """
    headers = dict(record.headers)  # of equal names the last one, which cifarctl has added
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
    """Whether the value of a digested letter is the digest of `value`."""
    try:
        body = orjson.loads(digest or b"")
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("sha256") == hashlib.sha256(value or b"").hexdigest()


def receipt(partition: int, offset: int) -> Headers:
    """The headers of the receipt for the letter at this partition and offset."""
    return [(REPLAYED, place(partition, offset))]


def receipt_message(partition: int, offset: int, _limit: int = MAX_LETTER_BYTES, *, keyed: bool = False) -> Message:
    """Key, value and headers of the receipt for the letter at this partition and offset.

    Without key and value, or, with `keyed`, with a key and an empty value: compaction would remove a null value.
    """
    headers = receipt(partition, offset)
    return (b"replayed:" + place(partition, offset), b"", headers) if keyed else (None, None, headers)


def receipt_for(record: Record) -> tuple[int, int] | None:
    """Partition and offset of the letter for which `record` is the receipt; None if it is not one."""
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


def _text(headers: dict[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode("utf-8", "replace")
