"""Recognise secret values and mask them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr

from cifarctl.settings.declared import as_text

MASK = "********"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "ssl.key", "private.key", "jaas", "oauthbearer.config")
PLACES = ("location", "file", "url", "endpoint")  # a name with this ending says where the secret is; it is not secret


def masked(name: str, value: Any) -> str:
    """`value` as text with secrets masked, those in kafka.options included."""
    if isinstance(value, dict):
        return json.dumps({key: masked(key, item) for key, item in value.items()})
    secret = isinstance(value, SecretStr) or is_secret(name)
    return MASK if secret and value not in (None, "") else as_text(value)


def is_secret(name: str) -> bool:
    """Whether a setting or librdkafka option with this name holds a secret."""
    return speaks_of_secrets(name) and not name.endswith(PLACES)


def speaks_of_secrets(text: str) -> bool:
    """Whether `text` contains a word that names secrets."""
    return any(word in text.lower() for word in SECRET_WORDS)
