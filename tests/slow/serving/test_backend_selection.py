"""A mixture among the backends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import Home
from inference import Speedometer, choose, chosen

from cifarctl.models.architectures.mixture import Mixture
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving import agreement, backend_selection
from cifarctl.serving.agreement import compare
from cifarctl.serving.backend_selection import prepare
from cifarctl.serving.ranking import Choice
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
