"""Ways to make a challenger: one file each, with a ``propose`` function of the type `Strategy`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol

from torch import nn

from cifarctl.errors import SettingsError
from cifarctl.online.fit import Lesson


class Strategy(Protocol):
    """How a strategy looks to the learner."""

    def __call__(self, champion: nn.Module, lesson: Lesson) -> nn.Module:
        """A challenger made from the lesson; `champion` itself stays as it is."""


def names() -> list[str]:
    """Names of all strategies: those of their modules, with hyphens."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def require(name: str) -> None:
    """See that there is a strategy of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in names():
        raise SettingsError(f"online.strategy = {name}: no such strategy; there are {', '.join(names())}")


def strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        SettingsError: there is none.
    """
    require(name)
    propose: Strategy = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").propose
    return propose
