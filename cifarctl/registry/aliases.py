"""Aliases: names that point at versions, one small file each, replaced atomically."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifarctl.errors import RegistryError
from cifarctl.registry.files import entries, os_errors, replace_file

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_RESERVED = re.compile(r"latest|v[0-9]+")


class Mark(BaseModel):
    """What an alias's file says; it stays when the alias is taken away, so that no generation ever comes again."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int | None = Field(ge=1, description="None since the alias was taken away")
    generation: int = Field(ge=1, description="grows by one with every move")
    moved: str = Field(description="ISO 8601, UTC")
    epoch: int | None = Field(None, description="highest epoch of a learner that has moved it")


class Alias(Mark):
    """Where an alias points."""

    version: int = Field(ge=1)


def canary_of(alias: str) -> str:
    """The alias that names the version on trial beside what `alias` names."""
    return f"{alias}-canary"


def is_alias_name(name: str) -> bool:
    """Whether an alias may have that name."""
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def check_alias_name(name: str) -> None:
    """Refuse a name that no alias may have.

    Raises:
        RegistryError: the name is misspelt or reserved.
    """
    if not is_alias_name(name):
        raise RegistryError(
            f"alias {name!r}: not allowed; use up to 64 of a-z, 0-9, _ and -, a letter first, "
            "and neither 'latest' nor a version such as 'v7'"
        )


def read_mark(path: Path) -> Mark | None:
    """What the file `path` says: an Alias, the mark of one that was taken away, or None where there never was one.

    Raises:
        RegistryError: the file cannot be read or is no alias.
    """
    with os_errors(path):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        mark = Mark.model_validate_json(text)
    except ValidationError:
        mark = None
    if mark is None or mark.name != path.name:
        raise RegistryError(
            f"{path}: not an alias file; delete it and set the alias again by `cifarctl registry promote`"
        )
    return mark if mark.version is None else Alias(**mark.model_dump())


def read_marks(directory: Path) -> dict[str, Mark]:
    """The marks of all aliases by name, also of those taken away; files that can be no alias are passed over."""
    found = (read_mark(directory / name) for name in entries(directory) if is_alias_name(name))
    return {mark.name: mark for mark in found if mark is not None}


def write_mark(directory: Path, mark: Mark) -> None:
    """Put the mark in place of what the alias was before, atomically."""
    replace_file(directory / mark.name, mark.model_dump_json(indent=2).encode() + b"\n")
