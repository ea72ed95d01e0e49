"""Aliases: names that point at versions, one small file each, replaced atomically."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifarctl.errors import RegistryError
from cifarctl.registry.files import entries, os_errors, replace_file

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_RESERVED = re.compile(r"latest|v[0-9]+")


class Alias(BaseModel):
    """Where an alias points; `generation` grows by one with every move."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int = Field(ge=1)
    generation: int = Field(ge=1)
    moved: str = Field(description="ISO 8601, UTC")
    epoch: int | None = Field(None, description="highest epoch of a learner that has moved it")


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


def read_alias(path: Path) -> Alias | None:
    """The alias in the file `path`, or None where there is none.

    Raises:
        RegistryError: the file cannot be read or is no alias.
    """
    with os_errors(path):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        alias = Alias.model_validate_json(text)
    except ValidationError:
        alias = None
    if alias is None or alias.name != path.name:
        raise RegistryError(
            f"{path}: not an alias file; delete it and set the alias again by `cifarctl registry promote`"
        )
    return alias


def read_aliases(directory: Path) -> dict[str, Alias]:
    """All aliases by name; files that can be no alias are passed over."""
    found = (read_alias(directory / name) for name in entries(directory) if is_alias_name(name))
    return {alias.name: alias for alias in found if alias is not None}


def write_alias(directory: Path, alias: Alias) -> None:
    """Put the alias in place of what it was before, atomically."""
    replace_file(directory / alias.name, alias.model_dump_json(indent=2).encode() + b"\n")
