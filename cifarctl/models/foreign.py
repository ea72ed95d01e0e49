"""Architectures from elsewhere: torchvision's classifiers, and anybody's own by its import path."""

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
POOLS = ("maxpool", "features.pool0")  # what follows the first convolution and shrinks images once more
WITHOUT_AUXILIARY = {"googlenet", "inception_v3"}  # whose further outputs are for their own way of training


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The architecture ``torchvision:NAME`` or ``package.module:NAME``, freshly initialised.

    That of torchvision is made to fit images of 32 × 32: see `fit_stem`. One's own is called with the `arguments`
    (``classes``) and must return a network from (B, 3, 32, 32) to logits (B, classes); its module is looked for as
    Python does, and in the present folder.

    Raises:
        SettingsError: there is no such architecture, or it is of no use for these images.
    """
    package, _, rest = name.partition(":")
    model = _of_torchvision(rest, **arguments) if package == TORCHVISION else _own(package, rest, arguments)
    training = model.training
    try:
        with torch.inference_mode():
            shape = tuple(model.eval()(torch.zeros(2, 3, 32, 32)).shape)
    except Exception as error:  # noqa: BLE001  another's code may raise anything
        raise SettingsError(f"train.model = {name}: it cannot take images of 32 × 32 ({_line(error)})") from None
    if shape != (2, arguments["classes"]):
        raise SettingsError(
            f"train.model = {name}: for two images its answer has the shape {shape}, not {(2, arguments['classes'])}"
        )
    return model.train(training)


def own_code(name: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """The import paths of people's own code that would be run to build this, members of a mixture included."""
    if ":" in name and not name.startswith(f"{TORCHVISION}:"):
        yield name
    if isinstance(member := arguments.get("member"), str):
        yield from own_code(member, arguments.get("arguments") or {})


def fit_stem(model: nn.Module) -> None:
    """Let a network that was made for 224 × 224 see 32 × 32, where it begins by halving them.

    The first convolution keeps the size, a wide one becomes 3 × 3, and the pooling after it goes: the stem that He et
    al. 2016, Deep Residual Learning for Image Recognition, section 4.2, use on CIFAR-10.
    """
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if first.stride != (2, 2):
        return
    if first.kernel_size == (3, 3):
        first.stride = (1, 1)
    else:
        narrow = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(name, narrow)
    for pool in POOLS:
        if any(pool == other for other, _ in model.named_modules()):
            model.set_submodule(pool, nn.Identity())


def _of_torchvision(name: str, *, classes: int) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known) or [f"{len(known)} others, such as resnet18"]
        raise SettingsError(f"train.model = {TORCHVISION}:{name}: no such architecture; there are {', '.join(near)}")
    options: dict[str, Any] = {"image_size": 32} if name.startswith("vit_") else {}
    if name in WITHOUT_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    fit_stem(model)
    return model


def _own(module: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    path = f"{module}:{name}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        make = importlib.import_module(module)
        for part in name.split("."):
            make = getattr(make, part)
        model = make(**arguments)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001  another's code may raise anything
        raise SettingsError(f"train.model = {path}: {_line(error)} ({type(error).__name__})") from None
    if not isinstance(model, nn.Module):
        raise SettingsError(f"train.model = {path}: it makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
