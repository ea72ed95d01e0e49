"""Architectures by name. To add one, put a module with a ``build`` function into ``architectures/``.

Names with a colon are of other packages: see ``foreign``.
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

threads.use()  # a default for every user of this package; they may set another number afterwards


def names() -> list[str]:
    """Names of the built-in architectures: their modules' names, with hyphens."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(architectures.__path__))


def recipe_of(name: str) -> Recipe:
    """The training defaults of an architecture; general ones for an unknown name.

    Architectures of other packages are usually larger, so their learning rate is lower.
    """
    if ":" in name:
        return Recipe(learning_rate=2e-3)
    found: Recipe = getattr(_module(name), "RECIPE", Recipe()) if name in names() else Recipe()
    return found


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Build a model, initialised from torch's global generator.

    With ``tta`` among the `arguments`, the model uses test-time augmentation: see `Averaged`.

    Raises:
        SettingsError: there is no such architecture, or it does not take these arguments.
    """
    own = {key: value for key, value in arguments.items() if key != "tta"}
    network = foreign.build(name, own) if ":" in name else _build(name, own)
    if "tta" not in arguments:
        return network
    if arguments["tta"] not in get_args(Tta):
        raise SettingsError(f"train.tta = {arguments['tta']}: use one of {', '.join(get_args(Tta))}")
    return Averaged(network, arguments["tta"])


def core(name: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The part of an architecture that determines its speed: a mixture's member, otherwise the architecture itself.

    Architectures with the same core are assumed to have the same fastest backend.
    """
    return (arguments["member"], arguments["arguments"]) if name == "mixture" else (name, arguments)


def _build(name: str, arguments: dict[str, Any]) -> nn.Module:
    if name not in names():
        raise SettingsError(
            f"train.model = {name}: no such architecture; use one of {', '.join(names())}, torchvision:NAME "
            "or your.module:NAME"
        )
    try:
        model: nn.Module = _module(name).build(**arguments)
    except TypeError as error:
        raise SettingsError(f"train.model = {name}: {error}") from None
    return model


def _module(name: str) -> Any:
    return importlib.import_module(f"{architectures.__name__}.{name.replace('-', '_')}")
