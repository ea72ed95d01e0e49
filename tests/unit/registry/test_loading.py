"""From a model file to a model: every check that stands between them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors
from torch import nn

from cifarctl import models
from cifarctl.errors import IntegrityError, VersionNotFound
from cifarctl.models.preprocess import normalise
from cifarctl.registry import Canary, Draft, Manifest, Normalisation, Registry, SplitRecord
from cifarctl.registry.loading import canary, load, to_bytes
from cifarctl.settings import RegistrySettings

NORMALISATION = Normalisation(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
Tensors = dict[str, torch.Tensor]
CANARY_PIXELS = [[95, 130], [72, 206], [190, 147], [173, 250]]  # the first two of each image, seed 0


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return models.build("net", {})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(RegistrySettings(dir=tmp_path))


def publish(registry: Registry, trained: nn.Module, weights: bytes | None = None, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "net",
        "arguments": {},
        "normalisation": NORMALISATION,
        "classes": tuple("abcdefghij"),
        "split": SplitRecord(source="synthetic", seed=0, shares=(0.7, 0.1, 0.2), sha256="ab", seen=("train",)),
        "settings": {},
        "metrics": {},
        "parent": None,
        "origin": "train",
        "libraries": {},
        "canary": canary(trained, NORMALISATION),
    }
    return registry.publish(Draft(**(fields | changes)), to_bytes(trained) if weights is None else weights)


def test_a_model_comes_back_as_it_was(registry: Registry, model: nn.Module) -> None:
    manifest = publish(registry, model)
    registry.promote(1, who="test", why="first")
    loaded = load(registry, "production")
    assert loaded.manifest == manifest
    assert not any(module.training for module in loaded.model.modules())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], tensor, rtol=0, atol=0)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model(images), model(images))


def test_neither_canary_nor_loading_disturbs_the_model_or_the_generator(registry: Registry, model: nn.Module) -> None:
    model.train()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    publish(registry, model)
    load(registry, 1)
    assert model.training
    torch.testing.assert_close(torch.rand(3), expected)


def test_channels_last_and_tied_weights_are_saved() -> None:
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)).to(memory_format=torch.channels_last)
    tied[1].weight = tied[0].weight
    tensors = safetensors.load(to_bytes(tied))
    torch.testing.assert_close(tensors["1.weight"], tied.state_dict()["0.weight"])


def test_a_model_that_predicts_nan_gets_no_canary() -> None:
    broken = models.build("net", {})
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(IntegrityError, match="not finite"):
        canary(broken, NORMALISATION)


def test_the_canary_images_are_the_same_everywhere() -> None:
    class Pixels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2]

    found = canary(Pixels(), Normalisation(mean=(0, 0, 0), std=(1, 1, 1)), seed=0)
    pixels = np.rint(np.array(found.logits) * 255).astype(int).tolist()
    assert pixels == CANARY_PIXELS


def nan(tensors: Tensors) -> None:
    tensors["0.bias"][3] = float("nan")


def infinity(tensors: Tensors) -> None:
    tensors["0.bias"][3] = float("inf")


def shape(tensors: Tensors) -> None:
    tensors["0.bias"] = tensors["0.bias"][:-1].clone()


def dtype(tensors: Tensors) -> None:
    tensors["0.bias"] = tensors["0.bias"].double()


def extra(tensors: Tensors) -> None:
    tensors["evil"] = torch.zeros(1)


def missing(tensors: Tensors) -> None:
    del tensors["0.bias"]


def noise(tensors: Tensors) -> None:
    tensors["0.weight"] += 0.5


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (nan, r"0\.bias has values that are not finite"),
        (infinity, r"0\.bias has values that are not finite"),
        (shape, r"0\.bias has shape \(31,\), not \(32,\)"),
        (dtype, r"0\.bias has type torch\.float64, not torch\.float32"),
        (extra, r"missing: none, unexpected: evil"),
        (missing, r"missing: 0\.bias, unexpected: none"),
        (noise, r"canary prediction is off by .* allowed are"),
    ],
)
def test_wrong_tensors_are_refused(
    registry: Registry, model: nn.Module, change: Callable[[Tensors], None], cause: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(tensors)
    publish(registry, model, safetensors.save(tensors))
    with pytest.raises(IntegrityError, match=rf"^version 1: .*{cause}"):
        load(registry, 1)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"0.bias": [1.0]}), b"\xff" * 64])
def test_a_file_that_is_not_safetensors_is_refused(registry: Registry, model: nn.Module, content: bytes) -> None:
    publish(registry, model, content)
    with pytest.raises(IntegrityError, match="version 1: its file is not valid safetensors"):
        load(registry, 1)


def test_a_file_cut_short_before_publishing_is_refused(registry: Registry, model: nn.Module) -> None:
    publish(registry, model, to_bytes(model)[:-1])
    with pytest.raises(IntegrityError, match="version 1: its file is not valid safetensors"):
        load(registry, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"",
    ],
    ids=["truncated", "one bit", "empty"],
)
def test_a_file_damaged_after_publishing_is_refused(
    registry: Registry, model: nn.Module, damage: Callable[[bytes], bytes]
) -> None:
    manifest = publish(registry, model)
    path = registry.path(1) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=rf"version 1: .*sha256.*{manifest.sha256}"):
        load(registry, 1)


def test_a_file_that_is_too_large_is_not_read(registry: Registry, model: nn.Module) -> None:
    publish(registry, model)
    path = registry.path(1) / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(600 << 20)  # a hole: no disk is used
    with pytest.raises(IntegrityError, match=r"version 1: .*larger than 512 MiB.*max_model_mb"):
        load(registry, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "no-such-net"},
        {"arguments": {"depth": 3}},
        {"arguments": {"classes": -1}},
        {"model": "airbench", "arguments": {"widths": []}},
        {"model": "airbench", "arguments": {"widths": {}}},
        {"model": "airbench", "arguments": {"widths": [8, 16, -16]}},
        {"model": "airbench", "arguments": {"widths": 8}},
    ],
    ids=str,
)
def test_an_architecture_that_cannot_be_built(registry: Registry, model: nn.Module, changes: dict[str, Any]) -> None:
    publish(registry, model, **changes)
    with pytest.raises(IntegrityError, match=r"version 1: architecture .* cannot be built"):
        load(registry, 1)


def test_a_canary_of_another_shape_is_refused(registry: Registry, model: nn.Module) -> None:
    publish(registry, model, canary=Canary(seed=0, logits=((1.0,) * 10,) * 3))
    publish(registry, model, classes=("a", "b"))
    for version in (1, 2):
        with pytest.raises(IntegrityError, match=f"version {version}: its canary is not 4 rows"):
            load(registry, version)


def test_another_normalisation_fails_the_canary(registry: Registry, model: nn.Module) -> None:
    publish(registry, model, normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1)))
    with pytest.raises(IntegrityError, match="canary prediction is off"):
        load(registry, 1)


def test_a_version_that_does_not_exist(registry: Registry) -> None:
    with pytest.raises(VersionNotFound):
        load(registry, "production")


def test_normalise_is_the_formula() -> None:
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    before = pixels.clone()
    found = normalise(pixels, NORMALISATION.mean, NORMALISATION.std)
    mean = torch.tensor(NORMALISATION.mean).view(3, 1, 1)
    std = torch.tensor(NORMALISATION.std).view(3, 1, 1)
    torch.testing.assert_close(found, (pixels / 255 - mean) / std)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_normalise_of_no_images() -> None:
    assert normalise(torch.empty(0, 3, 32, 32, dtype=torch.uint8), (0, 0, 0), (1, 1, 1)).shape == (
        0,
        3,
        32,
        32,
    )
