"""The choice among inference backends where they are built in earnest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import Home, republish
from inference import COMBINATIONS, Speedometer, build, choose, chosen

from cifarctl.models.architectures.mixture import Mixture
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving import agreement, backend_selection
from cifarctl.serving.agreement import compare
from cifarctl.serving.backend_selection import prepare
from cifarctl.serving.ranking import REFERENCE, Choice
from cifarctl.settings import ServeSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `fast` is not installed."""
    for package in ("openvino", "onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("only_torch")
def test_a_mixture_is_served_as_its_members_are_however_many(
    home: Home, speedometer: Speedometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number of members changes as the learner learns: to measure anew each time would hold the promotion up."""
    monkeypatch.setattr(backend_selection, "SUCCESSOR_IMAGES", 100)
    monkeypatch.setattr(agreement, "SAME", 0.9)
    monkeypatch.setattr(agreement, "ACCURACY", 0.1)
    checked = []
    monkeypatch.setattr(backend_selection, "compare", lambda *given: checked.append(len(given[0])) or compare(*given))
    speedometer.speeds = {"eager in bfloat16": 100.0}
    found = choose(home.registry)
    loaded = load(home.registry, 1)
    for count in (2, 3):
        mixture = Mixture([loaded.model] * count, 10).eval()
        arguments = {"member": "net", "arguments": {"classes": 10}, "members": count, "classes": 10}
        changed = {"model": "mixture", "arguments": arguments, "sha256": f"{count}" * 64}
        manifest = loaded.manifest.model_copy(update=changed)
        found = prepare(LoadedModel(mixture, manifest), home.registry, ServeSettings(), 1, like=found)
        assert chosen(found) == Choice("eager", "bfloat16")
    assert checked == [200, 100, 100]
    prepare(LoadedModel(mixture, manifest), home.registry, ServeSettings(), 1)  # as if serve were started with it
    assert checked == [200, 100, 100, 200]
    assert speedometer.runs == 1


@pytest.mark.parametrize("fastest", COMBINATIONS, ids=str)
def test_auto_takes_the_fastest(fastest: Choice, trained: Home, speedometer: Speedometer) -> None:
    build(fastest)  # or skip
    speedometer.speeds = {str(fastest): 100.0}
    found = choose(trained.registry)
    assert chosen(found) == fastest
    assert found.notices == ()
    images = trained.dataset.test.pixels
    torch.testing.assert_close(found.backend(images), load(trained.registry, 1).predictor()(images), rtol=0, atol=0.02)


def test_auto_measures_for_real(trained: Home) -> None:
    found = choose(trained.registry)
    assert REFERENCE in found.ranking
    assert chosen(found) in found.ranking


@pytest.mark.usefixtures("only_torch")
def test_measurements_are_remembered(trained: Home, speedometer: Speedometer, cache: Path) -> None:
    speedometer.speeds = {"eager in bfloat16": 100.0}
    first = choose(trained.registry)
    assert chosen(first) == Choice("eager", "bfloat16")
    assert speedometer.runs == 1
    speedometer.speeds = {}
    assert chosen(choose(trained.registry)) == chosen(first)
    assert speedometer.runs == 1
    choose(trained.registry, batch_size=32)  # another batch size may have another winner
    assert speedometer.runs == 2
    for entry in cache.iterdir():
        entry.write_text(entry.read_text().replace("100.0", '"fast"').replace("}", ""))
    choose(trained.registry)
    assert speedometer.runs == 3


@pytest.mark.usefixtures("only_torch")
def test_agreement_is_found_once_for_a_model(
    home: Home, speedometer: Speedometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr(backend_selection, "compare", lambda *given: compared.append(given) or compare(*given))
    speedometer.speeds = {"eager in bfloat16": 100.0}
    choose(home.registry)
    choose(home.registry)
    assert len(compared) == 1
    other = republish(home.registry, lambda model: next(model.parameters()).mul_(1.001))
    choose(home.registry, other)
    assert len(compared) == 2
