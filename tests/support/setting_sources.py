"""Every way to set a setting, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifarctl.errors import SettingsError
from cifarctl.settings import Settings, explain, load

# Each puts one setting into one source and returns what `load` then needs as overrides.
Put = Callable[[pytest.MonkeyPatch, str, str], dict[str, Any]]


def by_option(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    return {name: value}


def by_environment(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    patch.setenv(variable(name), value)
    return {}


def by_dotenv(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    Path(".env").write_text(f"{variable(name)}={value}\n")
    return {}


def by_toml(patch: pytest.MonkeyPatch, name: str, value: str) -> dict[str, Any]:
    del patch
    section, _, key = name.partition(".")
    plain = value[:1] in "[0123456789-" and value[-1:] in "]0123456789"
    Path("cifarctl.toml").write_text(f"[{section}]\n{key} = {value if plain else repr(value)}\n")
    return {}


SOURCES: dict[str, Put] = {
    "option": by_option,
    "environment": by_environment,
    ".env": by_dotenv,
    "cifarctl.toml": by_toml,
}
each_source = pytest.mark.parametrize("source", SOURCES)


def variable(name: str) -> str:
    return "CIFARCTL_" + name.upper().replace(".", "__")


def value_of(found: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(found, section), key)


def error_of(overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def source_of(name: str, overrides: dict[str, Any]) -> str:
    return next(row.source for row in explain(overrides) if row.setting.name == name)
