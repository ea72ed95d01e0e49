"""Text that would steer a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

HOSTILE = "x\n\r\x1b[31m\x1b]0;t\x07\x00\x85\x9b\u202e\u2066\u200b\u2028\ud800\udcff[red]:cat:[/]"


def poisoned(value: Any, text: str) -> Any:
    """`value` with `text` behind every string in it, and in place of ids."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, list | tuple):
        return type(value)(poisoned(item, text) for item in value)
    if isinstance(value, dict):
        return {key: poisoned(item, text) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: poisoned(getattr(value, field.name), text) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value


def clean(lines: list[str] | Iterator[str]) -> str:
    text = "\n".join(lines)
    assert [character for character in text if not (character == "\n" or character.isprintable())] == []
    return text
