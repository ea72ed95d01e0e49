"""Read the sources of settings: options, environment, .env, cifarctl.toml."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource, TomlConfigSettingsSource
from pydantic_settings import SettingsError as SourceError

from cifarctl.errors import SettingsError
from cifarctl.settings.declared import as_text, declared
from cifarctl.settings.model import DOTENV_FILE, NESTED, PREFIX, TOML_FILE, Settings
from cifarctl.settings.secrets import MASK, speaks_of_secrets


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"a.b": 1}`` into ``{"a": {"b": 1}}``; after ``kafka.options.`` the rest is one key, dots included."""
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        target = nested.setdefault(section, {})
        if section == "kafka" and key.startswith("options."):
            target.setdefault("options", {})[key.removeprefix("options.")] = value
        else:
            target[key] = value
    return nested


def read_sources(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values that each source sets, strongest source first.

    Raises:
        SettingsError: a source cannot be parsed, or a value should be JSON and is not.
    """
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "option": lambda: nested(overrides),
        "environment": lambda: variables("environment", os.environ, EnvSettingsSource),
        DOTENV_FILE: lambda: variables(DOTENV_FILE, _dotenv(), DotEnvSettingsSource),
        TOML_FILE: lambda: TomlConfigSettingsSource(Settings, TOML_FILE)(),
    }
    found = {}
    for source, read in readers.items():
        try:
            found[source] = read()
        except (SourceError, ValueError, OSError) as error:  # a section is not JSON, a file is not TOML
            raise SettingsError(f"{source} cannot be read: {error}") from None
    return found


def _dotenv() -> dict[str, str | None]:
    """The variables of .env; a malformed line is an error (python-dotenv would only log it)."""
    if not Path(DOTENV_FILE).is_file():
        return {}
    with Path(DOTENV_FILE).open() as file:
        for binding in parse_stream(file):
            if binding.error:  # without the text: it may be a secret
                raise ValueError(f"line {binding.original.line} is not of the form NAME=value")
    return dotenv_values(DOTENV_FILE)


def variables(source: str, variables: Mapping[str, str | None], reader: type[EnvSettingsSource]) -> dict[str, Any]:
    """The values that variables with our prefix set, misspelt names included."""
    values = {name.upper(): value for name, value in variables.items()}
    for setting in declared():
        if value := values.get(setting.environment):
            decoded(setting.name, value, source)
    return _known_sections(reader(Settings)()) | misspelt(variables)


def decoded(name: str, value: Any, source: str) -> Any:
    """`value`, parsed as JSON if the setting is a list or a dictionary and the value is text.

    Raises:
        SettingsError: the text is not valid JSON.
    """
    example = next((s.default for s in declared() if s.name == name and isinstance(s.default, tuple | dict)), None)
    if example is None or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        masked = MASK if speaks_of_secrets(value) else value
        like = as_text(example or {"linger.ms": 20})
        raise SettingsError(f"{name} = {masked} ({source}): should be JSON, for example {like}") from None


def _known_sections(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in Settings.model_fields}


def misspelt(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """Variables with our prefix but no known section, keyed by the name without the prefix: probably misspelt."""
    found: dict[str, Any] = {}
    for name, value in variables.items():
        section, _, key = name[len(PREFIX) :].lower().partition(NESTED)
        if name.upper().startswith(PREFIX) and section not in Settings.model_fields:
            found[section] = {key: value} if key else value
    return found
