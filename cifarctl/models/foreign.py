"""Architectures of other packages: torchvision's classifiers, and the user's own by import path."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifarctl.errors import SettingsError

TORCHVISION = "torchvision"
WITHOUT_AUXILIARY = {"googlenet", "inception_v3"}  # their auxiliary outputs need a training loss of their own


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build ``torchvision:NAME`` or ``package.module:NAME``, freshly initialised; the only argument is ``classes``.

    A torchvision network is adapted to images of 32 × 32 pixels: see `fit_stem`. The user's own function or class is
    called with ``classes`` and must return a network from (B, 3, 32, 32) to logits (B, classes). Its module is searched
    for on Python's path and in the current folder.

    Raises:
        SettingsError: there is no such architecture, or it does not work with these images.
    """
    if arguments.keys() != {"classes"}:  # an untrusted manifest must not choose arguments for trusted code
        raise SettingsError(f"train.model = {name}: its only argument is classes, not {', '.join(arguments)}")
    package, _, rest = name.partition(":")
    classes = arguments["classes"]
    try:
        model = _of_torchvision(rest, classes) if package == TORCHVISION else _own(package, rest, classes)
        training = model.training
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, 3, 32, 32)).shape)
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001  another's code may raise anything
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise SettingsError(
            f"train.model = {name}: does not work with images of 32 × 32: {what} ({type(error).__name__})"
        ) from None
    if shape != (2, classes):
        raise SettingsError(
            f"train.model = {name}: its output for two images has the shape {shape}, not {(2, classes)}"
        )
    return model.train(training)


def own_code(name: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Import paths of the user's own code that building this architecture would run, mixture members included."""
    if ":" in name and not name.startswith(f"{TORCHVISION}:"):
        yield name
    if isinstance(member := arguments.get("member"), str):
        inner = arguments.get("arguments")
        yield from own_code(member, inner if isinstance(inner, Mapping) else {})


def fit_stem(model: nn.Module) -> None:
    """Adapt a network made for 224 × 224 images to 32 × 32, if its first convolution has stride 2.

    The first convolution gets stride 1 and, if wider, a 3 × 3 kernel; max-pooling right after it is removed. Source: He
    et al. 2016, Deep Residual Learning for Image Recognition, section 4.2 (their stem for CIFAR-10).
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]
    name, first = layers[0]
    if not isinstance(first, nn.Conv2d) or first.stride != (2, 2):
        return
    if first.kernel_size == (3, 3):
        first.stride = (1, 1)
    else:
        narrow = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(name, narrow)
    for following, layer in layers[1:2]:
        if isinstance(layer, nn.MaxPool2d):
            model.set_submodule(following, nn.Identity())


def _of_torchvision(name: str, classes: int) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known) or ["resnet18"])
        raise SettingsError(f"train.model = {TORCHVISION}:{name}: no such architecture; there are for example {near}")
    options: dict[str, Any] = {"image_size": 32} if name.startswith("vit_") else {}
    if name in WITHOUT_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    fit_stem(model)
    return model


def _own(module: str, name: str, classes: int) -> nn.Module:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    make: Any = importlib.import_module(module)
    for part in name.split("."):
        make = getattr(make, part)
    model = make(classes=classes)
    if not isinstance(model, nn.Module):
        raise TypeError(f"it makes a {type(model).__name__}, not a torch.nn.Module")
    return model
