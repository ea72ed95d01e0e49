"""What a message takes on the wire."""

from __future__ import annotations

from collections.abc import Iterable

#: Upper bounds of what a batch, a record and a header take besides their contents (KIP-98; lengths are varints).
BATCH_BYTES = 61
RECORD_BYTES = 36
HEADER_BYTES = 10


def wire_size(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Upper bound of the bytes of a batch with this message alone, which is what the broker compares."""
    size = BATCH_BYTES + RECORD_BYTES + len(key or b"") + len(value or b"")
    for name, text in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode())) + len(text or b"")
    return size
