"""Architectures, inference, and the choice of device and arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models import architectures
from cifarctl.models.predictor import Predictor, choose_device, choose_precision
from cifarctl.models.preprocess import normalise

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class Tutorial(nn.Module):
    """The tutorial's network as its own script writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = functional.max_pool2d(functional.relu(conv(x)), 2)
        return self.fc2(functional.relu(self.fc1(x.view(-1, 64 * 4 * 4))))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return models.build("net", {"classes": 10}).eval()


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# --- architectures


def test_net_is_the_tutorials_network(net: nn.Module) -> None:
    tutorial = Tutorial().eval()
    weights = tutorial.state_dict().values()
    ours = models.build("net", {}).eval()
    shapes = [tuple(value.shape) for value in ours.state_dict().values()]
    assert shapes == [tuple(value.shape) for value in weights]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(images), tutorial(images))
    assert sum(parameter.numel() for parameter in net.parameters()) == 122_570


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_the_number_of_classes(classes: int) -> None:
    assert models.build("net", {"classes": classes})(torch.zeros(3, 3, 32, 32)).shape == (3, classes)


def test_weights_follow_the_global_generator() -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(next(models.build("net", {}).parameters()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_unknown_architecture_is_told_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"train\.model = resnet: no such architecture; there are .*\bnet\b"):
        models.build("resnet", {})


@pytest.mark.parametrize("name", ["../net", "__init__", "net.py", ""])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(SettingsError, match="no such architecture"):
        models.build(name, {})


def test_arguments_that_the_architecture_does_not_take() -> None:
    with pytest.raises(SettingsError, match=r"train\.model = net: .*depth"):
        models.build("net", {"depth": 3})


def test_a_new_architecture_joins_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear_probe.py").write_text(
        "from torch import nn\n"
        "def build(*, classes: int = 10) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
    )
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    assert models.names() == ["linear-probe", "mixture", "net", "net-bn"]
    assert models.build("linear-probe", {"classes": 4})(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_models_need_neither_kafka_nor_a_terminal() -> None:
    code = (
        "import sys, cifarctl.models.predictor\n"
        "sys.exit(bool({'confluent_kafka', 'typer', 'rich', 'cifarctl.data'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- inference


def test_predictions_are_probabilities_of_the_normalised_images(net: nn.Module) -> None:
    pixels = pictures(7)
    found = Predictor(net, MEAN, STD)(pixels)
    assert found.dtype == torch.float32
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected = net((pixels / 255 - mean) / std).softmax(dim=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(7))


def test_the_size_of_batches_does_not_matter(net: nn.Module) -> None:
    pixels = pictures(23)
    whole = Predictor(net, MEAN, STD, batch_size=100)(pixels)
    for size in (1, 8, 23):
        torch.testing.assert_close(Predictor(net, MEAN, STD, batch_size=size)(pixels), whole, rtol=1e-4, atol=1e-6)


def test_no_images(net: nn.Module) -> None:
    assert len(Predictor(net, MEAN, STD)(pictures(0))) == 0


def test_bfloat16_comes_close(net: nn.Module) -> None:
    pixels = pictures(16)
    exact = Predictor(net, MEAN, STD)(pixels)
    rough = Predictor(net, MEAN, STD, precision="bfloat16")(pixels)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.02


def test_a_predictor_puts_its_model_into_eval_mode_and_keeps_no_gradients() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3072, 10)).train()
    predictor = Predictor(model, MEAN, STD)
    pixels = pictures(4)
    assert torch.equal(predictor(pixels), predictor(pixels))
    assert not predictor(pixels).requires_grad


def test_an_image_is_predicted_alike_in_any_company(net: nn.Module) -> None:
    pixels = pictures(5)
    predictor = Predictor(net, MEAN, STD)
    alone = torch.cat([predictor(pixels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, predictor(pixels), rtol=1e-4, atol=1e-6)


def test_normalised_images_have_the_mean_and_deviation_that_were_taken_off() -> None:
    pixels = pictures(64)
    scaled = pixels.double() / 255
    mean = tuple(scaled.mean(dim=(0, 2, 3)).tolist())
    std = tuple(scaled.std(dim=(0, 2, 3)).tolist())
    found = normalise(pixels, mean, std).double()
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=(0, 2, 3)), torch.ones(3).double(), atol=1e-4, rtol=0)


# --- device and arithmetic


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu", "serve.device") == torch.device("cpu")
    assert isinstance(choose_device("auto", "serve.device"), torch.device)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu0", ""])
def test_a_device_that_cannot_be_used(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"device = {name}: not usable here .*use auto or cpu") as caught:
        choose_device(name, "serve.device")
    assert "\n" not in str(caught.value)


def test_what_is_wanted_is_taken(net: nn.Module) -> None:
    for wanted in ("float32", "bfloat16"):
        assert choose_precision(wanted, net, torch.device("cpu"), 8, train=False) == wanted


@pytest.mark.parametrize("train", [False, True])
def test_measuring_leaves_model_and_generators_as_they_were(train: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert choose_precision("auto", model, torch.device("cpu"), 8, train=train) in {"float32", "bfloat16"}
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("slow", "expected"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_auto_takes_what_measures_faster(slow: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the test's own: a forward pass in the slow arithmetic takes a second, in the other a tenth."""
    now = 0.0

    class Model(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal now
            reduced = torch.is_autocast_enabled("cpu")
            now += 1.0 if reduced == (slow == "bfloat16") else 0.1
            return images.flatten(1)

    monkeypatch.setattr("cifarctl.models.predictor.time.perf_counter", lambda: now)
    assert choose_precision("auto", Model(), torch.device("cpu"), 2, train=False) == expected
