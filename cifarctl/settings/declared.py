"""Every setting as the model declares it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cifarctl.settings.model import NESTED, PREFIX, Settings
from cifarctl.settings.types import Section


@dataclass(frozen=True)
class Setting:
    """One setting as the model declares it."""

    name: str
    default: Any
    description: str
    secret: bool

    @property
    def environment(self) -> str:
        """Name of its environment variable."""
        return PREFIX + self.name.replace(".", NESTED).upper()


def declared() -> Iterator[Setting]:
    """Every setting, in the order of the model."""
    for section, field in Settings.model_fields.items():
        for name, leaf in section_of(section).model_fields.items():
            yield Setting(
                name=f"{section}.{name}",
                default=getattr(field.default, name),
                description=leaf.description or "",
                secret="SecretStr" in str(leaf.annotation),
            )


def section_of(name: str) -> type[Section]:
    """The settings class of the section with that name."""
    annotation = Settings.model_fields[name].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    return annotation


def summary(section: str) -> str:
    """The first line of a section's docstring."""
    return (section_of(section).__doc__ or "").splitlines()[0]


def as_text(value: Any) -> str:
    """A value in the form that an environment variable takes."""
    if value is None:
        return ""
    if isinstance(value, tuple | dict | bool):
        return json.dumps(value)
    return str(value)
