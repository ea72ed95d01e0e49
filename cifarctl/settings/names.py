"""Errors for unknown setting names, with a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from cifarctl.errors import SettingsError
from cifarctl.settings.declared import Setting, declared
from cifarctl.settings.model import DOTENV_FILE, Settings
from cifarctl.settings.types import encodable


def refuse_unknown(source: str, values: Mapping[str, Any]) -> None:
    """Refuse names of settings that do not exist.

    Raises:
        SettingsError: names the first one, its source and the setting that was probably meant.
    """
    for section, inside in values.items():
        keys = list(inside) if isinstance(inside, Mapping) else []
        if section in Settings.model_fields:
            options = inside.get("options") if isinstance(inside, Mapping) else None
            if isinstance(options, Mapping):
                keys += [f"options.{key}" for key in options]
            for key in keys:
                if not encodable(key):  # pydantic fails to report such a key
                    raise unknown(f"{section}.{key}", source)
            continue
        name = f"{section}.{keys[0]}" if keys else section
        raise unknown(name, source, f"the sections are {', '.join(Settings.model_fields)}")


def unknown(name: str, source: str, otherwise: str = "`cifarctl config` lists all") -> SettingsError:
    """The error for an unknown setting; it suggests the likely one in the spelling of `source`."""
    meant = likely_meant(name)
    if meant is None:
        hint = otherwise
    elif source in ("environment", DOTENV_FILE):
        variable = Setting(".".join(meant.split(".")[:2]), None, "", secret=False).environment
        hint = f"did you mean {variable}{'' if '.' in name else ', with two underscores'}?"
    else:
        hint = f"did you mean {meant}?"
    return SettingsError(f"unknown setting {name} ({source}); {hint}")


def likely_meant(name: str) -> str | None:
    """The setting that `name` most likely means; the section may be misspelt or missing."""
    known = [setting.name for setting in declared()]
    section, dot, key = name.partition(".")
    if not dot:  # one underscore instead of two, or the key alone
        divided = [one for one in known if one.replace(".", "_") == name or one.partition(".")[2] == name]
        if divided:
            return divided[0]
        for head in Settings.model_fields:
            if section.startswith(f"{head}_"):
                return f"{head}.{section.removeprefix(f'{head}_')}"
        return None
    head, dot, option = key.partition(".")
    if dot and _alike(section, "kafka") and _alike(head, "options"):
        return f"kafka.options.{option}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    same = [one for one in known if one.partition(".")[2] == key]
    return same[0] if len(same) == 1 else None


def _alike(text: str, word: str) -> bool:
    return bool(difflib.get_close_matches(text, [word]))
