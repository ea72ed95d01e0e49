"""Compiled training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers import open_registry
from training_runs import NORMALISED, Compiled, flow, no_compiler, notices, result_of, same, stop_at_step, weights

from cifarctl import models
from cifarctl.data import Dataset, Split
from cifarctl.models import compiling
from cifarctl.models.architectures import airbench
from cifarctl.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


COMPILER = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="no C++ compiler")


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_a_compiler_a_run_is_what_it_would_be_without_compiling(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    plain = result_of(flow(images, registry, NORMALISED.model_copy(update={"compile": "off"}))).version
    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(compiling, "COMPILING_S", 0.0)  # auto: every run is long enough
    found = list(flow(images, registry, NORMALISED.model_copy(update={"compile": wanted})))
    cause = "RuntimeError: InvalidCxxCompiler: no working C++ compiler found"
    assert notices(found) == [f"torch.compile fails here ({cause}); trained without it"]
    assert same(weights(registry, result_of(found).version), weights(registry, plain))


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_compiled_models_must_have_finite_gradients(
    images: tuple[Dataset, Split], registry: Registry, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    class Spoilt(Compiled):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits = super().forward(inputs)
            logits.register_hook(lambda gradient: gradient * float("nan"))
            return logits

    plain = result_of(flow(images, registry, NORMALISED.model_copy(update={"compile": "off"}))).version
    monkeypatch.setattr(torch, "compile", Spoilt)
    monkeypatch.setattr(compiling, "COMPILING_S", 0.0)  # auto: every run is long enough
    found = list(flow(images, registry, NORMALISED.model_copy(update={"compile": wanted})))
    assert notices(found) == ["torch.compile yields gradients that are not finite; trained without it"]
    assert same(weights(registry, result_of(found).version), weights(registry, plain))


@COMPILER
def test_the_strong_model_can_be_compiled() -> None:
    """The maximum of what is recomputed in another precision has no place: its gradient would be 0/0."""
    device = torch.device("cpu")
    arguments = {"classes": 10, "tta": "flip-shift", **airbench.RECIPE.arguments}
    model = models.build("airbench", arguments).to(memory_format=torch.channels_last)
    assert compiling.compiled("on", model, device, "bfloat16", batch=8, steps={32: 1}) is not None


@COMPILER
def test_a_compiled_run_learns_the_same_and_resumes(images: tuple[Dataset, Split], registry: Registry) -> None:
    settings = NORMALISED.model_copy(update={"compile": "on"})
    eager = weights(registry, result_of(flow(images, registry, NORMALISED)).version)
    found = list(flow(images, registry, settings))
    assert notices(found) == ["a step of training is compiled (torch.compile)"]
    mine = weights(registry, result_of(found).version)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        begun = models.build("net-bn", {"classes": 10}).state_dict()
    for name in (name for name, tensor in mine.items() if tensor.ndim == 4):
        assert (mine[name] - eager[name]).abs().mean() < 0.1 * (mine[name] - begun[name]).abs().mean()
    with pytest.MonkeyPatch.context() as patch:
        found = list(flow(images, registry, settings, stop=stop_at_step(4, patch)))
    assert "--resume" in notices(found)[-1]
    again = result_of(flow(images, registry, settings, resume=True))
    assert same(weights(registry, again.version), mine)
