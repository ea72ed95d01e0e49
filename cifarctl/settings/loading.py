"""Merge all sources into the effective settings, and tell the source of each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cifarctl.errors import SettingsError
from cifarctl.settings.declared import Setting, declared
from cifarctl.settings.model import Settings
from cifarctl.settings.names import likely_meant, refuse_unknown, unknown
from cifarctl.settings.secrets import MASK, is_secret, masked
from cifarctl.settings.sources import decoded, nested, read_sources
from cifarctl.settings.types import TEXT


@dataclass(frozen=True)
class Effective:
    """The effective value of one setting, masked if secret, and its source."""

    setting: Setting
    value: str
    source: str


def load(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read every source; `overrides` are dotted names from the command line.

    Raises:
        SettingsError: a name is unknown or a value is not allowed; the message names setting, value, source.
    """
    given = {name: decoded(name, value, "option") for name, value in (overrides or {}).items()}
    found = read_sources(given)
    for source, values in found.items():
        refuse_unknown(source, values)
    try:
        return Settings(**nested(given))
    except ValidationError as error:
        # pydantic reports an error for each member of a union; keep one per setting.
        wrong = {dotted(item["loc"]): _describe(dict(item), found) for item in reversed(error.errors())}
        raise SettingsError("; ".join(reversed(wrong.values()))) from None


def explain(overrides: Mapping[str, Any] | None = None) -> list[Effective]:
    """The effective value and the source of every setting, secrets masked."""
    settings = load(overrides)
    found = read_sources(dict(overrides or {}))
    return [
        Effective(setting, masked(setting.name, value_of(settings, setting.name)), source_of(setting.name, found))
        for setting in declared()
    ]


def parse_assignment(text: str) -> tuple[str, str]:
    """Split the ``section.key=value`` of ``--set``.

    Raises:
        SettingsError: the text has another form, or sets a secret.
    """
    name, equals, value = text.partition("=")
    if not equals or name.count(".") < 1:
        # Not the value: it may be a password.
        meant = likely_meant(name.strip()) if equals else None
        hint = f"did you mean {meant}?" if meant else "for example train.epochs=5"
        raise SettingsError(f"--set {name.strip()!r}: expected section.key=value, {hint}")
    if is_secret(name.strip()):
        section, _, key = name.strip().partition(".")
        variable = Setting(f"{section}.{key.partition('.')[0]}", None, "", secret=True).environment
        raise SettingsError(
            f"--set {name.strip()}: secrets do not belong in process arguments, which everybody on the machine can "
            f"read: use the environment ({variable}) or .env"
        )
    return name.strip(), value.strip()


def value_of(settings: Settings, name: str) -> Any:
    """The value of the setting with that dotted name."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def source_of(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The strongest source that sets `name`."""
    section, _, key = name.partition(".")
    for source, values in found.items():
        inside = values.get(section)
        if not isinstance(inside, Mapping):
            there = inside is not None
        elif key.startswith("options."):
            there = key.removeprefix("options.") in inside.get("options", {})
        else:
            there = key in inside
        if there:
            return source
    return "default"


def dotted(path: Sequence[int | str]) -> str:
    """The dotted name of a setting, or of one of kafka.options."""
    depth = 3 if path[:2] == ("kafka", "options") else 2
    return ".".join(str(part) for part in path[:depth])


def _describe(error: dict[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    name = dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        return str(unknown(name, source_of(name, found)))
    secret = any(setting.secret for setting in declared() if setting.name == name)
    value = MASK if secret else masked(name, error["input"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] == "string_unicode":
        message = TEXT
    return f"{name} = {value} ({source_of(name, found)}): {message}"
