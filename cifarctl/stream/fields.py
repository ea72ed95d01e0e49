"""What ids and labels may be, wherever they travel."""

from __future__ import annotations

from cifarctl.stream.records import Refused

MAX_ID_BYTES = 1024


def json_id(value: object) -> str:
    """An id out of JSON.

    Raises:
        Refused: it is no text and no integer, or too long.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("IdNotText", f"id is a {type(value).__name__}, not a string")
    text = str(value)
    return short_id(text, len(text.encode()))


def json_label(value: object, classes: int) -> int:
    """A label out of JSON.

    Raises:
        Refused: it is no integer, or none of 0 to `classes` - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("LabelNotInteger", f"label is a {type(value).__name__}, not an integer")
    return in_range(value, classes)


def key_id(key: bytes) -> str:
    """The id that a message's key is.

    Raises:
        Refused: it is too long.
    """
    return short_id(key.decode("utf-8", "replace"), len(key))


def short_id(text: str, size: int) -> str:
    """`text`, whose UTF-8 has `size` bytes.

    Raises:
        Refused: these are too many.
    """
    if size > MAX_ID_BYTES:
        raise Refused("IdTooLong", f"the id has {size} bytes; at most {MAX_ID_BYTES} are allowed")
    return text


def in_range(label: int, classes: int) -> int:
    """`label`, a class.

    Raises:
        Refused: it is none of 0 to `classes` - 1.
    """
    if not 0 <= label < classes:
        raise Refused("LabelOutOfRange", f"label is {label}; the classes are 0 to {classes - 1}")
    return label
