"""cifarctl: online machine learning on CIFAR-10 image streams over Apache Kafka.

The command line uses the names below itself. Each is imported when it is first asked for, as most of them need torch,
which takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same as in _HOMES
    from cifarctl.data.scenario import Scenario
    from cifarctl.flows.evaluate import evaluate
    from cifarctl.flows.predict import predict
    from cifarctl.flows.serve import serve
    from cifarctl.flows.stream_evaluation import evaluate_stream
    from cifarctl.flows.train import train
    from cifarctl.registry.loading import load as load_version
    from cifarctl.registry.store import Registry
    from cifarctl.settings.model import Settings

__version__ = "0.1.0"
__all__ = [
    "Registry",
    "Scenario",
    "Settings",
    "evaluate",
    "evaluate_stream",
    "load_version",
    "predict",
    "serve",
    "train",
]

#: Where each public name is at home: module and name.
_HOMES = {
    "Registry": ("cifarctl.registry.store", "Registry"),
    "Scenario": ("cifarctl.data.scenario", "Scenario"),
    "Settings": ("cifarctl.settings.model", "Settings"),
    "evaluate": ("cifarctl.flows.evaluate", "evaluate"),
    "evaluate_stream": ("cifarctl.flows.stream_evaluation", "evaluate_stream"),
    "load_version": ("cifarctl.registry.loading", "load"),
    "predict": ("cifarctl.flows.predict", "predict"),
    "serve": ("cifarctl.flows.serve", "serve"),
    "train": ("cifarctl.flows.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = getattr(importlib.import_module(module), attribute)
    globals()[name] = found  # so that this is asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
