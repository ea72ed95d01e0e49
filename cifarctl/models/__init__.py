"""Architectures by name. A new one of ours joins by one file in ``architectures/`` with a ``build`` function.

Names with a colon are those of other packages: see ``foreign``.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from torch import nn

from cifarctl.errors import SettingsError
from cifarctl.models import architectures, foreign


def names() -> list[str]:
    """Names of our own architectures: those of their modules, with hyphens."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(architectures.__path__))


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A freshly initialised model; its parameters take their values from torch's global generator.

    Raises:
        SettingsError: no architecture of that name, or it does not take these arguments.
    """
    if ":" in name:
        return foreign.build(name, arguments)
    if name not in names():
        raise SettingsError(
            f"train.model = {name}: no such architecture; there are {', '.join(names())}, torchvision:NAME "
            "and your.module:NAME"
        )
    module = importlib.import_module(f"{architectures.__name__}.{name.replace('-', '_')}")
    try:
        model: nn.Module = module.build(**arguments)
    except TypeError as error:
        raise SettingsError(f"train.model = {name}: {error}") from None
    return model
