"""Aliases: names that point at versions, one small file each, replaced atomically."""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifarctl.errors import AliasDamaged, RegistryError
from cifarctl.registry.files import entries, os_errors, replace_file

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_RESERVED = re.compile(r"latest|v[0-9]+")
_GENERATION = re.compile(rb'"generation":\s*([0-9]{1,18})\s*[,}]')
REPAIR = "`cifarctl registry verify --repair` rebuilds it from the history"


class Mark(BaseModel):
    """The content of an alias's file; it stays when the alias is removed, so that no generation is used twice."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int | None = Field(ge=1, description="None since the alias was removed")
    generation: int = Field(ge=1, description="grows by one with every move")
    moved: str = Field(description="ISO 8601, UTC")
    epoch: int | None = Field(None, description="highest epoch of a learner that has moved it")


class Alias(Mark):
    """Where an alias points."""

    version: int = Field(ge=1)


def canary_of(alias: str) -> str:
    """The alias that names the canary of `alias`, the version on trial."""
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
    """The mark in the file `path`: an Alias, the mark of a removed one, or None where there never was one.

    Raises:
        AliasDamaged: the file is not an alias file.
        RegistryError: the file cannot be read.
    """
    text = read_text(path)
    mark = None if text is None else parse_mark(text, path.name)
    if text is not None and mark is None:
        raise AliasDamaged(f"{path}: not an alias file; {REPAIR}")
    return mark


def read_text(path: Path) -> bytes | None:
    """The content of an alias's file; None where there is none, empty where something else lies in its place.

    Raises:
        RegistryError: it cannot be read.
    """
    with os_errors(path):
        try:
            return path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a symbolic link to itself
                return b""
            raise


def parse_mark(text: bytes, name: str) -> Mark | None:
    """The mark of the alias `name` in the content of its file; None where the content is not one."""
    try:
        mark = Mark.model_validate_json(text)
    except ValidationError:
        return None
    return typed(mark) if mark.name == name else None


def typed(mark: Mark) -> Mark:
    """The mark, as an Alias where it names a version."""
    return mark if mark.version is None else Alias(**mark.model_dump())


def generation_in(text: bytes) -> int:
    """The generation in the remains of an alias's file, 0 where there is none to be found."""
    found = _GENERATION.search(text)
    return int(found[1]) if found else 0


def read_texts(directory: Path) -> dict[str, bytes]:
    """The content of every file that may be an alias's, by name, as `read_text` returns it.

    Raises:
        RegistryError: one cannot be read.
    """
    found = {name: read_text(directory / name) for name in entries(directory) if is_alias_name(name)}
    return {name: text for name, text in found.items() if text is not None}


def write_mark(directory: Path, mark: Mark) -> None:
    """Put the mark in place of what the alias was before, atomically."""
    replace_file(directory / mark.name, mark.model_dump_json(indent=2).encode() + b"\n")
