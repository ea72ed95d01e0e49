"""What several test modules share: small synthetic data, a small trained registry, the command line in-process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner, Result

from cifarctl import data, events
from cifarctl.cli import app
from cifarctl.data import Dataset, Images, Split
from cifarctl.flows.train import train
from cifarctl.registry import Canary, Description, Draft, Normalisation, Registry, SplitRecord
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish
from cifarctl.settings import DataSettings, RegistrySettings, Settings, TrainSettings

#: The repository.
ROOT = Path(__file__).parents[2]
DATA = DataSettings(source="synthetic", synthetic_images=2000)
TRAIN = TrainSettings(epochs=4, seed=1, batch_size=32, precision="float32", device="cpu", threads=1)


def draft(**changes: Any) -> Draft:
    """What a version says of itself, for a registry that nobody loads from."""
    fields: dict[str, Any] = {
        "model": "net",
        "arguments": {"classes": 2},
        "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        "classes": ("cat", "dog"),
        "split": SplitRecord(source="synthetic", seed=0, shares=(0.7, 0.1, 0.2), sha256="ab", seen=("train",)),
        "settings": {"epochs": 3},
        "metrics": {"validation_accuracy": 0.75, "test_accuracy": None},
        "parent": None,
        "origin": "train",
        "libraries": {"python": "3.11"},
        "canary": Canary(seed=1, logits=((0.5, -0.5),) * 4),
    }
    return Draft(**(fields | changes))


@dataclass(frozen=True)
class Home:
    """A registry whose production version is a small model of synthetic images, and those images."""

    registry: Registry
    dataset: Dataset
    split: Split

    def copy(self, directory: Path) -> Home:
        """The same with a registry of its own."""
        shutil.copytree(self.registry.dir, directory)
        return Home(open_registry(directory), self.dataset, self.split)

    @property
    def options(self) -> list[str]:
        """Command-line options that lead a command here."""
        return [f"--set=registry.dir={self.registry.dir}", *small_data()]


def small_data(images: int = DATA.synthetic_images) -> list[str]:
    """Command-line options for synthetic data."""
    return ["--set=data.source=synthetic", f"--set=data.synthetic_images={images}"]


def small_train(batch_size: int = TRAIN.batch_size) -> list[str]:
    """Command-line options of a training that is quick and the same everywhere."""
    return [
        f"--set=train.batch_size={batch_size}",
        "--set=train.precision=float32",
        "--set=train.device=cpu",
        "--set=train.threads=1",
    ]


def open_registry(directory: Path, **values: Any) -> Registry:
    return Registry(RegistrySettings(dir=directory, **values))


def load_data(settings: DataSettings = DATA) -> tuple[Dataset, Split]:
    dataset = data.load(settings)
    return dataset, data.split_of(dataset, settings)


def train_home(directory: Path, **changes: Any) -> Home:
    """Train the small model, which gets about 70 % right; `changes` are to its training settings."""
    dataset, split = load_data()
    settings = Settings(data=DATA, train=TRAIN.model_copy(update=changes), registry=RegistrySettings(dir=directory))
    *_, result = train(dataset, settings)
    assert isinstance(result, events.TrainResult)
    assert result.promoted
    return Home(open_registry(directory), dataset, split)


def once_a_run(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, for all workers of pytest-xdist: the first to ask fills it, the others wait."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(name)
            make(unfinished)
            unfinished.replace(folder)
    return folder


def tagged(numbers: list[int], label: int | None = None) -> Images:
    """Images that can be told apart by their pixels: number n is n % 251 and n // 251; its class is n % 10."""
    tags = torch.tensor(numbers)
    pixels = torch.zeros((len(numbers), 3, 32, 32), dtype=torch.uint8)
    pixels[:, 0], pixels[:, 1] = (tags % 251).view(-1, 1, 1), (tags // 251).view(-1, 1, 1)
    return Images(pixels, tags % 10 if label is None else torch.full((len(numbers),), label))


def tags(images: Images) -> list[int]:
    """The numbers of `tagged` images."""
    first, second = images.pixels[:, 0, 0, 0].long(), images.pixels[:, 1, 0, 0].long()
    return (first + 251 * second).tolist()


def cifarctl(*arguments: str | Path) -> Result:
    """Run the command line in this process; stdout and stderr apart."""
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)  # serve and retrain set it for themselves


def republish(
    registry: Registry, change: Callable[[torch.nn.Module], object] = lambda model: None, **split: Any
) -> int:
    """Publish the first version once more, its model changed by `change`; the number of the new one.

    `split`: what it says otherwise of the images that it was trained on.
    """
    loaded = load(registry, 1)
    with torch.no_grad():
        change(loaded.model)
    manifest = loaded.manifest
    description = Description.like(manifest, split=manifest.split.model_copy(update=split), parent=1, origin="train")
    return publish(registry, loaded.model, description).version


ALL = ("train", "validation", "stream")  # what a version of train --full has seen


def spoil(model: torch.nn.Module) -> None:
    """Make a model of no use: it answers the first class whatever it sees."""
    for parameter in model.parameters():
        parameter.zero_()
