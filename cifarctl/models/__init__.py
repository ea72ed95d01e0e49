"""Architectures by name. A new one of ours joins by one file in ``architectures/`` with a ``build`` function.

Names with a colon are those of other packages: see ``foreign``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from cifarctl.errors import SettingsError
from cifarctl.models import architectures, foreign, threads
from cifarctl.models.averaged import Averaged
from cifarctl.models.recipe import Recipe, Tta

threads.use()  # every user of a model imports this first, and may choose another number later


def names() -> list[str]:
    """Names of our own architectures: those of their modules, with hyphens."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(architectures.__path__))


def recipe_of(name: str) -> Recipe:
    """The recipe of an architecture; the general one for a name that does not exist.

    A large network from elsewhere takes smaller steps than our small ones.
    """
    if ":" in name:
        return Recipe(learning_rate=2e-3)
    found: Recipe = getattr(_module(name), "RECIPE", Recipe()) if name in names() else Recipe()
    return found


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A freshly initialised model; its parameters take their values from torch's global generator.

    Where `arguments` have ``tta`` its answers are averaged: see `Averaged`.

    Raises:
        SettingsError: no architecture of that name, or it does not take these arguments.
    """
    own = {key: value for key, value in arguments.items() if key != "tta"}
    network = foreign.build(name, own) if ":" in name else _build(name, own)
    if "tta" not in arguments:
        return network
    if arguments["tta"] not in get_args(Tta):
        raise SettingsError(f"train.tta = {arguments['tta']}: there are {', '.join(get_args(Tta))}")
    return Averaged(network, arguments["tta"])


def core(name: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The core of an architecture: of a mixture its members' architecture, however many they are; else itself.

    What runs one of two of the same core fastest is taken to run the other fastest.
    """
    return (arguments["member"], arguments["arguments"]) if name == "mixture" else (name, arguments)


def _build(name: str, arguments: dict[str, Any]) -> nn.Module:
    if name not in names():
        raise SettingsError(
            f"train.model = {name}: no such architecture; there are {', '.join(names())}, torchvision:NAME "
            "and your.module:NAME"
        )
    try:
        model: nn.Module = _module(name).build(**arguments)
    except TypeError as error:
        raise SettingsError(f"train.model = {name}: {error}") from None
    return model


def _module(name: str) -> Any:
    return importlib.import_module(f"{architectures.__name__}.{name.replace('-', '_')}")
