"""Which values are secret, and how they are shown."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr

from cifarctl.settings.declared import as_text

MASK = "********"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "ssl.key", "private.key", "jaas", "oauthbearer.config")
PLACES = ("location", "file", "url", "endpoint")  # names of where a secret is, or is had, end so


def shown(name: str, value: Any) -> str:
    """`value` for people: secrets masked, also those that travel among kafka.options."""
    if isinstance(value, dict):
        return json.dumps({key: shown(key, item) for key, item in value.items()})
    secret = isinstance(value, SecretStr) or is_secret(name)
    return MASK if secret and value not in (None, "") else as_text(value)


def is_secret(name: str) -> bool:
    """Whether a setting or an option of this name holds a secret."""
    return speaks_of_secrets(name) and not name.endswith(PLACES)


def speaks_of_secrets(text: str) -> bool:
    """Whether `text` contains a word that names secrets."""
    return any(word in text.lower() for word in SECRET_WORDS)
