"""Environment variables that describe the terminal."""

from __future__ import annotations

import os
import re

#: Smallest usable size in characters; a smaller one in the environment is ignored.
MINIMUM_SIZE = {"COLUMNS": 20, "LINES": 1}


def terminal_environment() -> dict[str, str]:
    """The environment without a COLUMNS or LINES that is not a usable size (rich would believe it)."""
    return {name: value for name, value in os.environ.items() if name not in MINIMUM_SIZE or _usable(name, value)}


def _usable(name: str, value: str) -> bool:
    return re.fullmatch("[0-9]{1,4}", value) is not None and int(value) >= MINIMUM_SIZE[name]
