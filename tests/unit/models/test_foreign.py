"""Architectures from elsewhere: torchvision's made to fit small images, people's own, and whose code may be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import choose_precision

# --- torchvision


def first_convolution(model: nn.Module) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "squeezenet1_1"]
)
def test_a_network_of_torchvision_looks_at_small_images_in_full(name: str) -> None:
    torch.manual_seed(0)
    model = models.build(f"torchvision:{name}", {"classes": 7})
    assert model.training
    assert (first_convolution(model).stride, first_convolution(model).kernel_size) == ((1, 1), (3, 3))
    sizes: list[tuple[int, ...]] = []
    for layer in [module for module in model.modules() if isinstance(module, nn.Conv2d)][:2]:
        layer.register_forward_hook(lambda _, given, __: sizes.append(tuple(given[0].shape[2:])))
    with torch.no_grad():
        assert model(torch.zeros(3, 3, 32, 32)).shape == (3, 7)
    assert len(sizes) == 2
    assert all(side >= 30 for size in sizes for side in size)  # some do not pad


@pytest.mark.parametrize("name", ["torchvision:resnet18", "own_networks:Small"])
def test_nothing_but_the_number_of_classes_is_handed_on(name: str, own: Path) -> None:
    """What a manifest from elsewhere says must not steer code that is trusted for something else."""
    with pytest.raises(SettingsError, match="its only argument is classes, not classes, weights"):
        models.build(name, {"classes": 2, "weights": "DEFAULT"})


def test_what_begins_otherwise_is_left_as_it_is() -> None:
    stem = first_convolution(models.build("torchvision:convnext_tiny", {"classes": 2}))
    assert (stem.kernel_size, stem.stride) == ((4, 4), (4, 4))


@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("torchvision:resnet19", r"no such architecture; there are for example .*resnet18"),
        ("torchvision:", "no such architecture"),
        ("torchvision:fcn_resnet50", "no such architecture"),  # no classifier
        ("torchvision:alexnet", "does not work with images of 32 × 32"),
        ("torchvision:vit_h_14", "does not work with images of 32 × 32"),
    ],
)
def test_what_torchvision_has_not_is_refused(name: str, story: str) -> None:
    with pytest.raises(SettingsError, match=rf"train\.model = {name}: .*{story}"):
        models.build(name, {"classes": 2})


# --- people's own


@pytest.mark.parametrize("name", ["Small", "Lazy"])
def test_an_own_network_is_found_in_the_present_folder_and_can_be_trained(own: Path, name: str) -> None:
    model = models.build(f"own_networks:{name}", {"classes": 3})
    choose_precision("auto", model, torch.device("cpu"), 8, train=True)
    answers = model.train()(torch.zeros(1, 3, 32, 32))
    assert answers.shape == (1, 3)
    answers.sum().backward()


@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("own_networks:None_such", "no attribute 'None_such'"),
        ("no_such_package:Small", "No module named 'no_such_package'"),
        ("own_networks:", r"\(AttributeError\)"),
        (":Small", r"\(ValueError\)"),
        ("own_networks:text", "it makes a str, not a torch.nn.Module"),
        ("own_networks:Wide", r"its output for two images has the shape \(2, 4\), not \(2, 3\)"),
        ("own_networks:Deaf", r"does not work with images of 32 × 32: I hear nothing \(ValueError\)"),
    ],
)
def test_an_own_network_that_is_of_no_use_is_refused(own: Path, name: str, story: str) -> None:
    with pytest.raises(SettingsError, match=rf"train\.model = {name}: .*{story}"):
        models.build(name, {"classes": 3})


def test_whose_code_would_be_run() -> None:
    inner = {"member": "one.place:Net", "arguments": {"classes": 2}, "members": 2, "classes": 2}
    nested: dict[str, Any] = {"member": "mixture", "arguments": inner, "members": 1, "classes": 2}
    assert list(own_code("net", {"classes": 2})) == list(own_code("torchvision:resnet18", {"classes": 2})) == []
    assert list(own_code("one.place:Net", {})) == ["one.place:Net"]
    assert list(own_code("mixture", {"member": "net", "arguments": [1]})) == []
    assert list(own_code("mixture", inner)) == list(own_code("mixture", nested)) == ["one.place:Net"]
