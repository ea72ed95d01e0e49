"""Parsing and validation of ids and labels, wherever they travel."""

from __future__ import annotations

import codecs
import re
from typing import Any

import orjson

from cifarctl.stream.records import Refused

MAX_ID_BYTES = 1024
#: Prefix of the id of a key that is not text.
KEY = "key:"
MAX_DIGITS = 18  # always fit into 64 bits
_DECIMAL = re.compile(rb"-?[0-9]+")
_HEX = re.compile("(?:[0-9a-f]{2})+")


def headers_unread() -> Refused:
    """The refusal of a record that is `unread`: its headers cannot be read."""
    return Refused(
        "HeadersUnread",
        "the Kafka client cannot read this message's headers, because the name of one is not UTF-8; "
        "send header names in UTF-8",
    )


def json_object(value: bytes, holding: str) -> dict[str, Any]:
    """Parse a message's value as a JSON object; if a name occurs twice, the last one counts.

    Raises:
        Refused: it is not one; `holding` names the expected fields.
    """
    try:
        body = orjson.loads(value)
    except ValueError as error:
        raise Refused("NotJson", f"{len(value)} bytes that are not JSON: {_not_json(value, error)}") from None
    if not isinstance(body, dict):
        raise Refused("NotAnObject", f"the JSON is a {type(body).__name__}, not an object with {holding}")
    return body


def _not_json(value: bytes, error: ValueError) -> str:
    """The reason; the parser's own message is misleading for other encodings."""
    if value.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or value[:2] in (b"{\0", b"\0{"):
        return "the text is UTF-16; UTF-8 is read"
    if value.startswith(codecs.BOM_UTF8):
        return "it starts with a byte order mark; leave that out"
    try:
        value.decode()
    except UnicodeDecodeError as broken:
        return f"not UTF-8 at byte {broken.start}"
    return str(error)


def json_id(value: object) -> str:
    """An id from JSON.

    Raises:
        Refused: it is neither a string nor an integer, or too long.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("IdNotText", f"id is a {type(value).__name__}, not a string")
    text = str(value)
    return short_id(text, len(text.encode()))


def json_label(value: object, classes: int) -> int:
    """A label from JSON.

    Raises:
        Refused: it is not an integer from 0 to `classes` - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("LabelNotInteger", f"label is a {type(value).__name__}, not an integer")
    return in_range(value, classes)


def label_text(text: bytes, classes: int) -> int:
    """A label in decimal digits, as in headers: no spaces, and no sign but minus.

    Raises:
        Refused: it is not an integer from 0 to `classes` - 1.
    """
    if not _DECIMAL.fullmatch(text):
        raise Refused("LabelNotInteger", f"the label header is {text[:40]!r}, not decimal text")
    if len(digits := text.lstrip(b"-0")) > MAX_DIGITS:
        raise Refused("LabelOutOfRange", f"label has {len(digits)} digits; the classes are 0 to {classes - 1}")
    return in_range(int(digits or b"0") * (-1 if text.startswith(b"-") else 1), classes)


def key_id(key: bytes) -> str:
    """The id for a message's key: its text, else `KEY` and its bytes in hexadecimal.

    Different keys have different ids: a text that would be the id of another key is written in hexadecimal too.

    Raises:
        Refused: the id is too long.
    """
    text = shown_key(key)
    size = len(text.encode())
    if size > max(len(key), MAX_ID_BYTES):
        raise Refused(
            "IdTooLong",
            f"the id has {size} bytes, because hexadecimal doubles the {len(key)} bytes of the key; "
            f"at most {MAX_ID_BYTES} are allowed",
        )
    return short_id(text, size)


def shown_key(key: bytes) -> str:
    """As `key_id`, but of any length, for people."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return KEY + key.hex()
    return KEY + key.hex() if text.startswith(KEY) and _is_written(text) else text


def _is_written(text: str) -> bool:
    """Whether `text` is the id of some key in hexadecimal."""
    while text.startswith(KEY) and _HEX.fullmatch(digits := text[len(KEY) :]):
        try:
            text = bytes.fromhex(digits).decode()
        except UnicodeDecodeError:
            return True
    return False


def short_id(text: str, size: int) -> str:
    """`text`, whose UTF-8 has `size` bytes.

    Raises:
        Refused: those are too many.
    """
    if size > MAX_ID_BYTES:
        raise Refused("IdTooLong", f"the id has {size} bytes; at most {MAX_ID_BYTES} are allowed")
    return text


def in_range(label: int, classes: int) -> int:
    """`label`, if it is a class.

    Raises:
        Refused: it is not from 0 to `classes` - 1.
    """
    if not 0 <= label < classes:
        raise Refused("LabelOutOfRange", f"label is {label}; the classes are 0 to {classes - 1}")
    return label
