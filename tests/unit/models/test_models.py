"""Architectures, inference, and the choice of device and arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from tutorial_network import Tutorial

from cifarctl import models
from cifarctl.errors import SettingsError
from cifarctl.models import architectures, convolution, statistics
from cifarctl.models.architectures.airbench import Airbench
from cifarctl.models.averaged import Averaged
from cifarctl.models.convolution import MAX_WIDTH, Convolution, weight_gradient
from cifarctl.models.optimiser import Optimiser
from cifarctl.models.predictor import Predictor, choose_device, choose_precision
from cifarctl.models.preprocess import normalise

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


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
    with pytest.raises(SettingsError, match=r"train\.model = resnet: no such architecture; use one of .*\bnet\b"):
        models.build("resnet", {})


@pytest.mark.parametrize("name", ["../net", "__init__", "net.py", ""])
def test_a_name_is_not_a_path(name: str) -> None:
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
    assert models.names() == ["airbench", "linear-probe", "mixture", "net", "net-bn"]
    assert models.build("linear-probe", {"classes": 4})(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_a_whitened_input_has_directions_of_equal_strength() -> None:
    """Over the patches of the images that it was whitened by, but for those that hardly vary."""
    model = models.build("airbench", {})
    assert isinstance(model, Airbench)
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = functional.avg_pool2d(noise, 3, 1, 1) * 3 + torch.tensor([0.0, 0.2, -0.1]).view(3, 1, 1)
    model.whiten_by(smooth)
    with torch.no_grad():
        filtered = functional.conv2d(smooth, model.whiten.weight).transpose(0, 1).flatten(1)
    torch.testing.assert_close(filtered.square().mean(dim=1), torch.ones(24), rtol=0.05, atol=0.0)
    torch.testing.assert_close(filtered[:12], -filtered[12:])
    correlations = filtered[:12] @ filtered[:12].T / filtered.shape[1]
    assert float((correlations - correlations.diag().diag()).abs().max()) < 0.01


def test_versions_that_name_no_widths_have_those_from_before_there_was_a_choice() -> None:
    widths = [
        [len(block[0].weight) for block in model.blocks]
        for arguments in ({}, dict(models.recipe_of("airbench").arguments))
        if isinstance(model := models.build("airbench", arguments), Airbench)
    ]
    assert widths == [[64, 256, 256], [64, 288, 288]]


@pytest.mark.parametrize(("tta", "views"), [("flip", 2), ("flip-shift", 6)])
def test_answers_are_averaged_over_variants_of_an_image(tta: str, views: int) -> None:
    torch.manual_seed(0)
    model = models.build("net", {"tta": tta})
    assert isinstance(model, Averaged)
    images = torch.randn(3, 3, 32, 32)
    seen: list[torch.Tensor] = []
    model.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        answers = model.eval()(images)
        assert len(seen) == views
        if tta == "flip":
            torch.testing.assert_close(model(images.flip(3)), answers)
        alone = model.train()(images)
    torch.testing.assert_close(alone, model.network(images))
    assert not torch.allclose(alone, answers)
    # Whatever is shown beside the image is the image, mirrored or moved by a pixel.
    moved = [torch.roll(images, (shift, shift), (2, 3)) for shift in (-1, 0, 1)]
    for view in seen[:views]:
        inner = slice(2, -2)
        assert any(
            torch.equal(view[:, :, inner, inner], other[:, :, inner, inner])
            for image in moved
            for other in (image, image.flip(3))
        )


@pytest.mark.parametrize("tta", ["bogus", None, {}, 6])
def test_a_manifest_cannot_ask_for_variants_that_there_are_not(tta: object) -> None:
    with pytest.raises(SettingsError, match="tta"):
        models.build("net", {"tta": tta})
    assert not isinstance(models.build("net", {}), Averaged)


def test_statistics_are_of_one_look_at_each_image() -> None:
    torch.manual_seed(0)
    model = models.build("net-bn", {"tta": "flip-shift"}).eval()
    assert isinstance(model, Averaged)
    images = torch.randn(100, 3, 32, 32)
    averaged, alone = statistics.adapted(model, images), statistics.adapted(model.network, images)
    assert isinstance(averaged, Averaged)
    assert alone is not None
    assert not averaged.training
    for one, other in zip(averaged.network.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(one, other)


# --- convolutions on a processor


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)  # fmt: skip
def test_the_gradient_by_products_of_matrices_is_that_of_the_convolution(
    count: int, channels: int, filters: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    images = torch.randn(count, channels, height, width, dtype=torch.float64)
    weight = torch.randn(filters, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    found = functional.conv2d(images, weight, padding=1)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    assert weight.grad is not None
    torch.testing.assert_close(weight_gradient(images, gradient), weight.grad)


@pytest.mark.parametrize("side", [3, MAX_WIDTH, MAX_WIDTH + 1])
def test_a_convolution_and_its_gradients_are_torchs(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, where what is small is computed otherwise, and in float32."""
    products = []

    def counted(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        products.append(images.shape[-1])
        return weight_gradient(images, gradient)

    monkeypatch.setattr(convolution, "weight_gradient", counted)
    torch.manual_seed(0)
    ours = Convolution(8, 16)
    theirs = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(20, 8, side, side)
    for half, tolerance in ((True, 0.02), (False, 1e-5)):
        outcomes = []
        for layer in (ours, theirs):
            images = pixels.clone().requires_grad_()
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = layer(images)
            found.float().square().mean().backward()
            outcomes.append((found.detach().float(), images.grad, layer.weight.grad))
        for one, other in zip(*outcomes, strict=True):
            assert one is not None
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
    assert products == [side] * (side <= MAX_WIDTH)


# --- what changes the weights


def narrow() -> nn.Module:
    """A strong model with few filters, which is quick on any processor."""
    return models.build("airbench", {"widths": (8, 16, 16)}).to(memory_format=torch.channels_last)


def test_muon_changes_filters_and_keeps_their_norm() -> None:
    torch.manual_seed(0)
    model = narrow()
    optimiser = Optimiser(model, models.recipe_of("airbench"), 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()(torch.randn(8, 3, 32, 32)).square().sum().backward()
    optimiser.step(0, 10)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained <= changed
    assert "whiten.weight" not in changed
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4 and parameter.requires_grad:
            start = before[name] * len(parameter) ** 0.5 / before[name].norm()
            step = (parameter.detach() - start).permute(0, 2, 3, 1).flatten(1)
            # An orthogonal matrix, but for what three steps of the iteration leave, times the learning rate.
            values = torch.linalg.svdvals(step) / 0.24
            assert 0.3 < float(values.median()) < 1.4


def test_parameters_other_than_filters_take_sgd_steps_on_the_summed_loss() -> None:
    """The rates of the paper: 0.67 for the head, 0.053 for shifts, a decay of 2e-6 an image for both."""
    model = narrow().train()
    optimiser = Optimiser(model, models.recipe_of("airbench"), 8)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    with torch.no_grad():
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    functional.cross_entropy(model(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.ndim != 4}
    expected = {}
    for name, gradient in gradients.items():
        if gradient is not None:
            rate = 0.67 if name == "head.weight" else 0.053
            full = 8 * gradient + 2e-6 * 1000 / rate * before[name]  # of the sum over the batch
            expected[name] = before[name] - rate * (full + 0.85 * full)  # Nesterov's first step
    optimiser.step(0, 10)
    assert {"head.weight", "whiten.bias"} < expected.keys()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.detach(), expected[name])


def test_the_bias_of_a_whitened_input_stays_after_a_while() -> None:
    model = narrow()
    optimiser = Optimiser(model, models.recipe_of("airbench"), 8)
    assert isinstance(model, Airbench)
    assert model.whiten.bias is not None
    found = []
    for step in (3, 4):
        before = model.whiten.bias.clone()
        model.zero_grad()
        model.train()(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimiser.step(step, 10)
        found.append(torch.equal(model.whiten.bias, before))
    assert found == [False, True]


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


def test_an_explicit_choice_is_taken(net: nn.Module) -> None:
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
