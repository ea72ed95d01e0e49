"""Inference backends: the same answers from each, and the choice among them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers import Home, cifarctl, open_registry, republish
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models import architectures, backends
from cifarctl.models.architectures.mixture import Mixture
from cifarctl.models.backends import Backend, Network, Plan, Unusable
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Registry, validation
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving import agreement, backend_selection, host_cache
from cifarctl.serving.agreement import Agreement, compare
from cifarctl.serving.backend_selection import Prepared, prepare
from cifarctl.serving.ranking import REFERENCE, Choice, order
from cifarctl.serving.speed import images_per_second
from cifarctl.settings import ServeSettings

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CPU = torch.device("cpu")
COMBINATIONS = [
    Choice("eager", "float32"),
    Choice("eager", "bfloat16"),
    Choice("onnxruntime", "float32"),
    Choice("openvino", "float32"),
    Choice("openvino", "bfloat16"),
]
SWEEP = (1, 2, 3, 31, 63, 64, 65, 100, 127, 128, 129, 200)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(models.build("net", {"classes": 10}).eval(), MEAN, STD, 10)


def build(choice: Choice, of: Network | None = None, batch_size: int = 128) -> Backend:
    """The backend, or a skip where it cannot be had."""
    kind = backends.find(choice.backend)
    if absent := backends.missing(kind):
        pytest.skip(f"{' and '.join(absent)} not installed")
    if choice.precision not in backends.precisions(choice.backend):
        pytest.skip(f"{choice.backend} has no {choice.precision} on this processor")
    return backends.build(choice.backend, of or network(), Plan(choice.precision, CPU, 1, batch_size))


@pytest.fixture(params=COMBINATIONS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    return build(request.param)


@pytest.fixture(scope="module")
def reference() -> Predictor:
    return Predictor(network().model, MEAN, STD)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


# --- each of them


def test_the_setting_names_those_that_there_are() -> None:
    names = get_args(ServeSettings.model_fields["backend"].annotation)
    assert sorted(names) == sorted(["auto", *backends.names()])


def test_the_same_probabilities_for_any_number_of_images(backend: Backend, reference: Predictor) -> None:
    pixels = pictures(max(SWEEP))
    expected = reference(pixels)
    tolerance = 1e-5 if backend.precision == "float32" else 0.01
    for count in SWEEP:
        found = backend(pixels[:count])
        assert found.dtype == torch.float32
        assert found.device == CPU
        assert not found.requires_grad
        torch.testing.assert_close(found, expected[:count], rtol=0, atol=tolerance)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(count), rtol=0, atol=1e-4)


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_answers_that_are_averaged(choice: Choice) -> None:
    """The strong model's: mirrored, and moved by a pixel."""
    model = models.build("airbench", {"classes": 10, "tta": "flip-shift", "widths": (8, 16, 16)}).eval()
    pixels = pictures(130)
    found = build(choice, of=Network(model, MEAN, STD, 10))(pixels)
    tolerance = 1e-5 if choice.precision == "float32" else 0.01
    torch.testing.assert_close(found, Predictor(model, MEAN, STD)(pixels), rtol=0, atol=tolerance)


def test_no_images_at_all(backend: Backend) -> None:
    assert backend(pictures(0)).shape == (0, 10)


def test_answers_stay_when_the_next_are_made(backend: Backend) -> None:
    first = backend(pictures(5, seed=1))
    before = first.clone()
    backend(pictures(5, seed=2))
    assert torch.equal(first, before)


def test_pixels_as_they_come(backend: Backend) -> None:
    pixels = pictures(12)
    plain = backend(pixels)
    assert torch.equal(backend(pixels.to(memory_format=torch.channels_last)), plain)
    assert torch.equal(backend(pixels.repeat_interleave(2, dim=0)[::2]), plain)
    assert torch.equal(
        backend(torch.from_numpy(np.frombuffer(bytearray(pixels.numpy().tobytes()), np.uint8)).view(-1, 3, 32, 32)),
        plain,
    )


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_the_trained_model_gets_the_same_classes(choice: Choice, trained: Home) -> None:
    loaded = load(trained.registry, 1)
    images = trained.dataset.train.take(trained.split.validation)
    found = build(choice, of=loaded.network())(images.pixels)
    assert compare(found, loaded.predictor()(images.pixels), images.labels).ok


def test_other_weights_of_the_architecture(backend: Backend, reference: Predictor) -> None:
    pixels = pictures(70)
    other = network(seed=1)
    renewed = backends.build(backend.name, other, backend.plan)
    assert (renewed.name, renewed.precision) == (backend.name, backend.precision)
    tolerance = 1e-5 if backend.precision == "float32" else 0.01
    torch.testing.assert_close(renewed(pixels), Predictor(other.model, MEAN, STD)(pixels), rtol=0, atol=tolerance)
    torch.testing.assert_close(backend(pixels), reference(pixels), rtol=0, atol=tolerance)


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_one_thread_is_one_thread_and_nobody_spins(choice: Choice) -> None:
    running = build(choice)
    pixels = pictures(64)

    def load_of(work: Callable[[], object], seconds: float) -> float:
        """Processors kept busy while `work` is repeated."""
        wall, used = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            work()
        return (time.process_time() - used) / (time.perf_counter() - wall)

    assert load_of(lambda: running(pixels), 0.3) < 1.3
    assert load_of(lambda: time.sleep(0.05), 0.3) < 0.3


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_a_model_that_cannot_be_run_is_told_in_a_line(choice: Choice) -> None:
    class Wrong(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    with pytest.raises(
        Unusable, match=rf"^{choice.backend} makes \(1, 3\) of 1 images$|^{choice.backend} makes \(64, 3\)"
    ):
        build(choice, of=Network(Wrong().eval(), MEAN, STD, 10))


def test_a_failing_runtime_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel\nand a long explanation")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(Unusable, match=r"^onnxruntime fails here \(RuntimeError: no such kernel\)$"):
        build(Choice("onnxruntime", "float32"))


@pytest.mark.parametrize("choice", [Choice("onnxruntime", "float32"), Choice("openvino", "float32")], ids=str)
def test_the_newer_exporter_steps_in(choice: Choice, monkeypatch: pytest.MonkeyPatch, reference: Predictor) -> None:
    pytest.importorskip("onnxscript")
    export = torch.onnx.export

    def without_the_older(*arguments: Any, dynamo: bool, **options: Any) -> Any:
        if not dynamo:
            raise TypeError("torch.onnx.export has no TorchScript exporter any more")
        return export(*arguments, dynamo=True, **options)

    monkeypatch.setattr(torch.onnx, "export", without_the_older)
    pixels = pictures(65)
    torch.testing.assert_close(build(choice)(pixels), reference(pixels), rtol=0, atol=1e-5)


# --- agreement


def one_hot(classes: list[int]) -> torch.Tensor:
    return torch.eye(3)[classes]


def test_agreement_counts_classes_and_accuracy() -> None:
    found = compare(one_hot([0, 1, 2, 0]), one_hot([0, 1, 2, 1]), torch.tensor([0, 1, 1, 1]))
    assert found == Agreement(images=4, same=0.75, accuracy=0.5, reference=0.75)
    assert not found.ok
    assert str(found) == (
        "the same class on 75.00% of 4 validation images, accuracy 50.00% against 75.00%; "
        "99.5% and 0.2 points are required"
    )


def test_what_is_no_number_agrees_with_nothing() -> None:
    assert compare(one_hot([0, 0]) * float("nan"), one_hot([0, 0]), torch.tensor([0, 0])).same == 0.0


@pytest.mark.parametrize(
    ("differing", "wrong", "ok"), [(0, 0, True), (5, 2, True), (6, 0, False), (5, 3, False), (0, 3, False)]
)
def test_where_the_line_is(differing: int, wrong: int, ok: bool) -> None:
    for sign in (1, -1):
        assert Agreement(1000, 1 - differing / 1000, 0.7 + sign * wrong / 1000, 0.7).ok is ok


@given(
    st.dictionaries(
        st.sampled_from(["images", "same", "accuracy", "reference", "x"]), st.none() | st.text() | st.floats()
    )
)
def test_a_damaged_record_of_agreement_is_none(value: dict[str, Any]) -> None:
    whole = {"images", "same", "accuracy", "reference"}
    usable = whole <= value.keys() and all(
        isinstance(value[name], float) and np.isfinite(value[name]) for name in whole
    )
    assert (Agreement.parse(value) is not None) == usable


# --- the host's cache


def test_the_cache_remembers(cache: Path) -> None:
    key = {"what": "test", "list": (1, 2)}
    assert host_cache.read(key) is None
    host_cache.write(key, {"speed": 2.5})
    assert host_cache.read(key) == {"speed": 2.5}
    assert host_cache.read(key | {"what": "other"}) is None
    host_cache.write(key, {"speed": 3})
    assert host_cache.read(key) == {"speed": 3}
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[1]", b"\xff\xfe", b'{"key": {"a": 2}, "value": {}}', b'{"key": {"a": 1}}']
)
def test_a_damaged_entry_is_none(content: bytes, cache: Path) -> None:
    host_cache.write({"a": 1}, {})
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert host_cache.read({"a": 1}) is None
    host_cache.write({"a": 1}, {"b": 2})
    assert host_cache.read({"a": 1}) == {"b": 2}


def test_a_cache_that_cannot_be_written_is_none(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    host_cache.write({"a": 1}, {"b": 2})
    assert host_cache.read({"a": 1}) is None


def test_the_longest_unused_entries_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cache, "KEPT", 3)
    for number in range(3):
        host_cache.write({"a": number}, {"b": number})
    for age, path in enumerate(cache.iterdir(), start=1):
        a = json.loads(path.read_bytes())["key"]["a"]
        os.utime(path, (1000.0 * a, 1000.0 * a))
        assert age <= 3
    assert host_cache.read({"a": 0}) == {"b": 0}  # used again
    host_cache.write({"a": 3}, {"b": 3})
    assert [host_cache.read({"a": number}) is not None for number in range(4)] == [True, False, True, True]


# --- validation images in the registry


def test_images_go_into_the_registry_and_come_back(tmp_path: Path) -> None:
    registry, split = open_registry(tmp_path / "r"), "0" * 64
    assert validation.load(registry, split) is None
    pixels, labels = pictures(9), torch.arange(9)
    validation.save(registry, split, pixels, labels)
    found = validation.load(registry, split)
    assert found is not None
    assert torch.equal(found[0], pixels)
    assert torch.equal(found[1], labels)
    validation.save(registry, split, pixels.flip(0), labels)  # they are those of the split already
    assert torch.equal(validation.load(registry, split)[0], pixels)  # type: ignore[index]


def test_an_import_leaves_the_images(home: Home, tmp_path: Path) -> None:
    shutil.rmtree(home.registry.dir / "validation")
    torch.save(load(home.registry, 1).model.state_dict(), tmp_path / "weights.pt")
    ran = cifarctl("registry", "import", tmp_path / "weights.pt", *home.options)
    assert ran.exit_code == 0, ran.stderr
    assert validation.load(home.registry, load(home.registry, 2).manifest.split.sha256) is not None


def test_many_images_are_thinned_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "LIMIT", 4)
    registry, split = open_registry(tmp_path / "r"), "1" * 64
    validation.save(registry, split, pictures(10), torch.arange(10))
    assert validation.load(registry, split)[1].tolist() == [0, 3, 6, 9]  # type: ignore[index]


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_damaged_images_are_none_and_written_anew(damage: bytes | None, tmp_path: Path) -> None:
    registry, split = open_registry(tmp_path / "r"), "2" * 64
    validation.save(registry, split, pictures(3), torch.arange(3))
    file = validation.path(registry, split)
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert validation.load(registry, split) is None
    validation.save(registry, split, pictures(3), torch.arange(3))
    assert validation.load(registry, split) is not None


def test_a_manifest_names_no_file_elsewhere(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "r")
    validation.save(registry, "3" * 64, pictures(3), torch.arange(3))
    shutil.copy(validation.path(registry, "3" * 64), tmp_path / "elsewhere.safetensors")
    assert validation.load(registry, "../../elsewhere") is None


def test_training_leaves_the_images_and_gc_keeps_them(home: Home) -> None:
    found = validation.load(home.registry, home.split.sha256)
    assert found is not None
    assert torch.equal(found[0], home.dataset.train.pixels[home.split.validation])
    assert torch.equal(found[1], home.dataset.train.labels[home.split.validation])
    validation.save(home.registry, "4" * 64, *found)
    leftover = validation.path(home.registry, "5" * 64).with_name(".staging-x")
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    removed = {item.path for item in home.registry.gc()}
    assert removed == {validation.path(home.registry, "4" * 64), leftover}
    assert validation.load(home.registry, home.split.sha256) is not None


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


class Speedometer:
    """Stands in for the measurement: speeds as told, and how often they were asked for."""

    def __init__(self) -> None:
        self.speeds: dict[str, float] = {}
        self.runs = 0

    def __call__(self, built: Mapping[Choice, Backend], images: int, seconds: float) -> dict[Choice, float]:
        self.runs += 1
        return {choice: self.speeds.get(str(choice), 1.0) for choice in built}


@pytest.fixture
def speedometer(monkeypatch: pytest.MonkeyPatch) -> Speedometer:
    found = Speedometer()
    monkeypatch.setattr(backend_selection, "images_per_second", found)
    return found


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `fast` is not installed."""
    for package in ("openvino", "onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)


def choose(registry: Registry, version: int = 1, like: Prepared | None = None, **options: Any) -> Prepared:
    return prepare(load(registry, version), registry, ServeSettings(**options), 1, like=like)


def chosen(prepared: Prepared) -> Choice:
    return Choice(prepared.backend.name, prepared.backend.precision)


def blind(model: nn.Module) -> None:
    """All images are the last class, by a difference that bfloat16 does not resolve."""
    last = list(model.children())[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.copy_(100 + 0.01 * torch.arange(10))


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
def test_what_is_measured_is_remembered(trained: Home, speedometer: Speedometer, cache: Path) -> None:
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
def test_speeds_in_the_cache_that_are_no_speeds_are_measured_again(
    trained: Home, speedometer: Speedometer, cache: Path
) -> None:
    choose(trained.registry)
    for entry in cache.iterdir():
        document = json.loads(entry.read_text())
        document["value"] = dict.fromkeys(document["value"], -1.0)
        entry.write_text(json.dumps(document))
    choose(trained.registry)
    assert speedometer.runs == 2


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
def test_what_is_asked_for_by_name_and_disagrees_is_an_error(home: Home) -> None:
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
def test_what_is_not_installed(name: str, trained: Home) -> None:
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
    with pytest.raises(SettingsError, match=r"^serve\.backend = openvino: openvino fails here .*install it anew"):
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


@pytest.mark.usefixtures("only_torch")
@pytest.mark.slow
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


@pytest.mark.parametrize("choice", COMBINATIONS, ids=str)
def test_signals_reach_python_when_a_backend_has_been_let_go(choice: Choice) -> None:
    """OpenVINO gives the thread that loads its plugin a stack for signals, and takes it away wherever that ends."""
    build(choice)  # or a skip
    code = (
        "import gc, os, signal, threading\n"
        "import torch\n"
        "from cifarctl import models\n"
        "from cifarctl.models import backends\n"
        "from cifarctl.models.backends import Network, Plan\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('heard'))\n"
        f"network = Network(models.build('net', {{'classes': 10}}).eval(), {MEAN}, {STD}, 10)\n"
        f"plan = Plan({choice.precision!r}, torch.device('cpu'), 1, 128)\n"
        f"backends.precisions({choice.backend!r})\n"
        f"kept = [backends.build({choice.backend!r}, network, plan)]\n"
        "kept[0](torch.zeros(1, 3, 32, 32, dtype=torch.uint8))\n"
        "letting_go = threading.Thread(target=lambda: (kept.clear(), gc.collect()))\n"
        "letting_go.start()\n"
        "letting_go.join()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "heard\n"), ran.stderr


# --- a light start


HEAVY = ("torchvision", "scipy", "river", "matplotlib", "torch._dynamo", "openvino", "onnxruntime", "onnx", "rich")


def test_preparing_imports_nothing_heavy(trained: Home) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import cifarctl.flows.serve\n"
        "from cifarctl.serving.backend_selection import prepare\n"
        "from cifarctl.registry import Registry\n"
        "from cifarctl.registry.loading import load\n"
        "from cifarctl.settings import RegistrySettings, ServeSettings\n"
        f"registry = Registry(RegistrySettings(dir=Path({str(trained.registry.dir)!r})))\n"
        "prepare(load(registry, 1), registry, ServeSettings(backend='eager'), 1)\n"
        f"print(*sorted({{*{HEAVY!r}, 'cifarctl.data'}} & sys.modules.keys()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == ""
