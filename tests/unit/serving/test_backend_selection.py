"""The choice among inference backends, by speed and agreement."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Home, cifarctl, republish
from inference import CPU, Speedometer, choose, chosen, network, pictures
from torch import nn

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models import architectures, backends
from cifarctl.models.backends import Backend, Plan
from cifarctl.registry import validation
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving.backend_selection import prepare
from cifarctl.serving.ranking import REFERENCE, Choice, order
from cifarctl.serving.speed import images_per_second
from cifarctl.settings import ServeSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


# --- speed


class Timed(Backend):
    """One whose passes take as long as it is told, by a clock that the test holds."""

    name = "timed"

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        super().__init__(network(), Plan("float32", CPU, 1, 64))
        self._clock, self._seconds = clock, iter(seconds)

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        self._clock[0] += next(self._seconds)
        return torch.zeros(len(pixels), 10)


def test_the_fastest_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("cifarctl.serving.speed.time.perf_counter", lambda: clock[0])
    found = images_per_second(
        {"a": Timed(clock, [9, 0.2, 0.1, 0.3]), "b": Timed(clock, [9, 0.4, 0.4, 0.2])}, 32, seconds=1.5
    )
    assert found == pytest.approx({"a": 320.0, "b": 160.0})


def test_bfloat16_must_win_by_a_fourth() -> None:
    fast, slow = Choice("eager", "bfloat16"), Choice("eager", "float32")
    assert order({slow: 100, fast: 120}) == (slow, fast)
    assert order({slow: 100, fast: 130}) == (fast, slow)


# --- the choice


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `fast` is not installed."""
    for package in ("openvino", "onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)


def blind(model: nn.Module) -> None:
    """All images are the last class, by a difference that bfloat16 does not resolve."""
    last = list(model.children())[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.copy_(100 + 0.01 * torch.arange(10))


@pytest.mark.usefixtures("only_torch")
def test_invalid_speeds_in_the_cache_are_measured_again(trained: Home, speedometer: Speedometer, cache: Path) -> None:
    choose(trained.registry)
    for entry in cache.iterdir():
        document = json.loads(entry.read_text())
        document["value"] = dict.fromkeys(document["value"], -1.0)
        entry.write_text(json.dumps(document))
    choose(trained.registry)
    assert speedometer.runs == 2


@pytest.mark.usefixtures("only_torch")
def test_the_next_version_is_checked_but_nothing_is_measured(home: Home, speedometer: Speedometer, cache: Path) -> None:
    speedometer.speeds = {"eager in bfloat16": 100.0}
    first = choose(home.registry)
    shutil.rmtree(cache)
    version = republish(home.registry)
    assert chosen(choose(home.registry, version, like=first)) == Choice("eager", "bfloat16")
    version = republish(home.registry, blind)
    found = choose(home.registry, version, like=first)
    assert speedometer.runs == 1
    assert chosen(found) == REFERENCE
    (notice,) = found.notices
    assert notice.startswith(f"eager in bfloat16 is refused for version {version}: the same class on 0.00% of 200 val")
    sighted = choose(home.registry, 1, like=found)  # the choice was the version's, not the host's
    assert chosen(sighted) == Choice("eager", "bfloat16")


@pytest.mark.usefixtures("only_torch")
def test_a_backend_requested_by_name_that_disagrees_is_an_error(home: Home) -> None:
    version = republish(home.registry, blind)
    with pytest.raises(
        SettingsError, match=r"^eager in bfloat16 is refused for version 2: .* 0\.00% of 200 .*; set serve"
    ):
        choose(home.registry, version, precision="bfloat16")
    assert chosen(choose(home.registry, version, backend="eager")) == REFERENCE


def test_a_backend_that_joins_by_a_file_and_is_wrong_is_refused(
    trained: Home, speedometer: Speedometer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hasty.py").write_text(
        "import torch\n"
        "from cifarctl.models.backends.eager import Eager\n"
        "class Hasty(Eager):\n"
        "    name = 'hasty'\n"
        "    @classmethod\n"
        "    def precisions(cls):\n"
        "        return ('float32',)\n"
        "    def _run(self, pixels):\n"
        "        return super()._run(pixels).roll(1, dims=1)\n"
        "BACKEND = Hasty\n"
    )
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    speedometer.speeds = {"hasty in float32": 100.0, str(REFERENCE): 50.0}
    found = choose(trained.registry)
    assert chosen(found) == REFERENCE
    assert len(found.notices) == 1
    assert "hasty in float32 is refused for version 1: the same class on 0.00%" in found.notices[0]


@pytest.mark.parametrize("options", [{}, {"backend": "eager", "precision": "bfloat16"}])
def test_without_images_only_float32_eager(options: dict[str, Any], home: Home, speedometer: Speedometer) -> None:
    shutil.rmtree(home.registry.dir / "validation")
    found = choose(home.registry, **options)
    assert chosen(found) == REFERENCE
    (notice,) = found.notices
    assert "holds no validation images of version 1: eager in float32 predicts" in notice
    assert notice.endswith("run `cifarctl eval` once where the data set is")
    assert speedometer.runs == 0


def test_eval_brings_the_images_and_the_next_swap_uses_them(home: Home, speedometer: Speedometer) -> None:
    shutil.rmtree(home.registry.dir / "validation")
    before = choose(home.registry)
    ran = cifarctl("eval", *home.options)
    assert ran.exit_code == 0, ran.stderr
    found = validation.load(home.registry, home.split.sha256)
    assert found is not None
    assert torch.equal(found[0], home.dataset.train.pixels[home.split.validation])
    speedometer.speeds = {"eager in bfloat16": 100.0}
    assert chosen(choose(home.registry, like=before)) == Choice("eager", "bfloat16")


def test_damaged_images_leave_float32_eager(home: Home, speedometer: Speedometer) -> None:
    validation.path(home.registry, home.split.sha256).write_bytes(b"nothing")
    speedometer.speeds = {"eager in bfloat16": 100.0}
    found = choose(home.registry)
    assert chosen(found) == REFERENCE
    assert "validation images of version 1 cannot be read" in found.notices[0]


def test_float32_eager_by_name_needs_no_images(home: Home) -> None:
    shutil.rmtree(home.registry.dir / "validation")
    found = choose(home.registry, backend="eager", precision="float32")
    assert chosen(found) == REFERENCE
    assert found.notices == ()


@pytest.mark.usefixtures("only_torch")
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_backend_that_is_not_installed(name: str, trained: Home) -> None:
    with pytest.raises(
        SettingsError, match=rf"^serve\.backend = {name}: {name} and onnx not installed; pip install 'ci"
    ):
        choose(trained.registry, backend=name)
    assert {choice.backend for choice in choose(trained.registry).ranking} == {"eager"}


def test_a_broken_installation_is_passed_over(
    trained: Home, speedometer: Speedometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")

    def fail() -> None:
        raise RuntimeError("libtbb.so.12: no such file")

    monkeypatch.setattr(openvino, "Core", fail)
    found = choose(trained.registry)
    assert found.notices == (
        "openvino fails here (RuntimeError: libtbb.so.12: no such file); serve.backend = auto skips it",
    )
    with pytest.raises(SettingsError, match=r"^serve\.backend = openvino: openvino fails here .*reinstall it"):
        choose(trained.registry, backend="openvino")


def test_a_runtime_that_does_not_take_the_model_is_told_of_at_every_start(
    trained: Home, speedometer: Speedometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unknown operator")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    for _ in range(2):
        found = choose(trained.registry)
        assert "onnxruntime fails here (RuntimeError: unknown operator)" in found.notices
        assert found.backend.name != "onnxruntime"
    with pytest.raises(SettingsError, match="unknown operator"):
        choose(trained.registry, backend="onnxruntime")


def test_a_precision_that_a_backend_has_not(trained: Home) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(SettingsError, match=r"^serve\.precision = bfloat16: onnxruntime computes in float32 here"):
        choose(trained.registry, backend="onnxruntime", precision="bfloat16")


def test_a_device_that_a_backend_does_not_run_on(trained: Home) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    with pytest.raises(
        SettingsError, match=r"^serve\.backend = openvino does not run on meta; set serve\.device to cpu"
    ):
        choose(trained.registry, backend="openvino", device="meta")


def test_another_architecture_is_measured_anew(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedometer: Speedometer
) -> None:
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n"
        "def build(*, classes=10):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
    )
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    first = choose(home.registry)
    loaded = load(home.registry, 1)
    flat = models.build("flat", {"classes": 10}).eval()
    manifest = loaded.manifest.model_copy(update={"model": "flat", "sha256": "f" * 64})
    found = prepare(LoadedModel(flat, manifest), home.registry, ServeSettings(), 1, like=first)
    assert speedometer.runs == 2
    assert found.backend(pictures(3)).shape == (3, 10)
