"""The size of a message on the wire."""

from __future__ import annotations

from collections.abc import Iterable

#: Upper bounds of the overhead of a batch, a record and a header (message format of KIP-98; lengths are varints).
BATCH_BYTES = 61
RECORD_BYTES = 36
HEADER_BYTES = 10


def wire_size(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Upper bound, in bytes, of a batch with only this message: the broker compares that with its limit."""
    size = BATCH_BYTES + RECORD_BYTES + len(key or b"") + len(value or b"")
    for name, text in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode())) + len(text or b"")
    return size
