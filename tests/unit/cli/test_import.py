"""`registry import`: weights of other programs, and files that are no weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import document, fails
from helpers import Home, republish, spoil
from tutorial_network import Tutorial

from cifarctl import models
from cifarctl.models.architectures import airbench
from cifarctl.registry.loading import load


@pytest.fixture
def net(home: Home) -> Tutorial:
    """The class-based network with the weights of the small trained model."""
    model = Tutorial().eval()
    weights = load(home.registry, 1).model.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model


@pytest.mark.parametrize("wrapped", [False, True], ids=["weights", "in a dictionary"])
def test_weights_of_another_program_are_imported(home: Home, net: Tutorial, tmp_path: Path, wrapped: bool) -> None:
    file = tmp_path / "tutorial.pt"
    weights = net.state_dict()
    torch.save({"epoch": 3, "state_dict": weights} if wrapped else weights, file)
    found = document("registry", "import", file, *home.options)
    assert list(found) == ["version", "test_accuracy", "promoted"]
    assert (found["version"], found["promoted"]) == (2, False)
    assert found["test_accuracy"] > 0.5  # the normalisation differs from training's, the weights are the same
    loaded = load(home.registry, 2)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(loaded.model(images), net(images))
    manifest = loaded.manifest
    assert (manifest.origin, manifest.model, manifest.normalisation.mean) == ("import", "net", (0.5, 0.5, 0.5))
    assert manifest.split.seen == ("train", "validation", "stream")
    assert home.registry.resolve("production") == 1


def test_weights_of_what_train_makes_are_imported(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an architecture whose recipe names arguments."""
    recipe = replace(models.recipe_of("airbench"), arguments={"widths": [4, 6, 8]})
    monkeypatch.setattr(airbench, "RECIPE", recipe)
    torch.save(models.build("airbench", dict(recipe.arguments)).state_dict(), tmp_path / "weights.pt")
    document("registry", "import", tmp_path / "weights.pt", "--model", "airbench", *home.options)
    assert load(home.registry, 2).manifest.arguments == {"classes": 10, "widths": [4, 6, 8]}


def test_imported_weights_can_be_promoted_at_once(home: Home, net: Tutorial, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "tutorial.pt")
    assert document("registry", "import", tmp_path / "tutorial.pt", "--promote", *home.options)["promoted"]
    assert home.registry.resolve("production") == 2
    assert home.registry.history()[-1].why == "imported from tutorial.pt"


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.mark, "pwned")


def evil(net: Tutorial, file: Path) -> None:
    torch.save({"fc2.bias": Evil(file.with_suffix(".mark"))}, file)


def evil_pickle(net: Tutorial, file: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(file.with_suffix(".mark"))))


def whole_model(net: Tutorial, file: Path) -> None:
    torch.save(net, file)


def fewer(net: Tutorial, file: Path) -> None:
    torch.save(dict(list(net.state_dict().items())[:-1]), file)


def surplus(net: Tutorial, file: Path) -> None:
    torch.save({**net.state_dict(), "extra": torch.zeros(1)}, file)


def other_shape(net: Tutorial, file: Path) -> None:
    torch.save(net.state_dict() | {"fc2.bias": torch.zeros(11)}, file)


def not_finite(net: Tutorial, file: Path) -> None:
    torch.save(net.state_dict() | {"fc2.bias": torch.full((10,), float("nan"))}, file)


def one_tensor(net: Tutorial, file: Path) -> None:
    torch.save(torch.zeros(3), file)


def numbers(net: Tutorial, file: Path) -> None:
    torch.save({"epoch": 3}, file)


def garbage(net: Tutorial, file: Path) -> None:
    file.write_bytes(b"garbage" * 100)


def empty(net: Tutorial, file: Path) -> None:
    file.write_bytes(b"")


def truncated(net: Tutorial, file: Path) -> None:
    torch.save(net.state_dict(), file)
    file.write_bytes(file.read_bytes()[:2000])


def foreign_zip(net: Tutorial, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("hello.txt", "hello")


def folder(net: Tutorial, file: Path) -> None:
    file.mkdir()


def nothing(net: Tutorial, file: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (evil, "holds no plain weights"),
        (evil_pickle, "holds no plain weights"),
        (whole_model, "holds no plain weights"),
        (fewer, "does not fit the architecture net"),
        (surplus, "does not fit the architecture net"),
        (other_shape, "does not fit the architecture net"),
        (not_finite, "holds numbers that are not finite"),
        (one_tensor, "holds no state dictionary"),
        (numbers, "holds no state dictionary"),
        (garbage, "holds no plain weights"),
        (empty, "holds no plain weights"),
        (truncated, "holds no plain weights"),
        (foreign_zip, "holds no plain weights"),
        (folder, "holds no plain weights"),
        (nothing, "no such file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_are_not_imported(
    home: Home, net: Tutorial, tmp_path: Path, write: Callable[[Tutorial, Path], None], cause: str
) -> None:
    file = tmp_path / "weights.pt"
    write(net, file)
    message = fails(4, "registry", "import", file, "--json", *home.options)
    assert str(file) in message
    assert cause in message
    assert not file.with_suffix(".mark").exists()
    assert home.registry.numbers() == [1]


def test_weights_for_an_architecture_that_does_not_exist(home: Home, net: Tutorial, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert "no such architecture" in fails(
        2, "registry", "import", tmp_path / "w.pt", "--model", "resnet", "--json", *home.options
    )


def test_the_spoilt_model_of_the_helpers_is_of_no_use(home: Home) -> None:
    """Tests of the gate rest on that."""
    republish(home.registry, spoil)
    assert document("eval", "--version", "2", *home.options)["accuracy"] == pytest.approx(0.1, abs=0.05)
