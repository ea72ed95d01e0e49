"""Lineages of small networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from cifarctl import models
from cifarctl.data import Images, synthetic
from cifarctl.models import architectures
from cifarctl.online import strategies
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Snapshot, Start, Strategy

MEAN, STD = (0.45, 0.44, 0.43), (0.25, 0.25, 0.25)
CLASSES = 10
ARGUMENTS = {"classes": CLASSES}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- changes of colour


def interrupt() -> None:
    raise KeyboardInterrupt


# --- the mixture of networks


@torch.inference_mode()
def says(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Probabilities."""
    probabilities: torch.Tensor = network(images).softmax(dim=1)
    return probabilities


# --- strategies: what all have in common


@dataclass
class Lineage:
    """A strategy at work, with the generator that the learner would share with it."""

    strategy: Strategy
    generator: torch.Generator

    def learn(self, recent: Images, *, drifted: bool = False, **changes: Any) -> Snapshot:
        """Let it observe images and propose a snapshot."""
        self.strategy.observe(recent)
        return self.strategy.propose(replace(self.lesson(recent, drifted=drifted), **changes))

    def lesson(self, recent: Images, *, drifted: bool = False) -> Lesson:
        return Lesson(
            recent=recent,
            new=recent,
            reservoir=OLD.take(torch.arange(40)),
            reference=OLD,
            arrived=recent.pixels,
            apart=APART,
            drifted=drifted,
            moved=True,
            scarce=False,
            mean=MEAN,
            std=STD,
            steps=3,
            batch_size=16,
            learning_rate=1e-2,
            precision="float32",
            generator=self.generator,
            on_step=lambda: None,
        )


OLD = synthetic.draw(200, seed=1)
CLEAN = synthetic.draw(60, seed=2)
APART = synthetic.draw(60, seed=3)
NEGATIVE = Images(255 - CLEAN.pixels, CLEAN.labels)
NAMES = strategies.names()


TINY = """
from torch import nn

def build(*, classes):
    features = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(512, classes))
"""
FORGETFUL = TINY.replace("nn.Flatten()", "nn.Dropout(), nn.Flatten()")


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An architecture with which all is quick; it has statistics beside its parameters."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny.py").write_text(TINY)
    (folder / "forgetful.py").write_text(FORGETFUL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "__path__", [*architectures.__path__, str(folder)])
        yield
    for name in ("tiny", "forgetful"):
        sys.modules.pop(f"{architectures.__name__}.{name}", None)


def network(architecture: str = "tiny") -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, ARGUMENTS).eval()


def blank(label: int | None = None) -> nn.Module:
    """A network that finds all classes equally likely, or one of them nearly certain."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        if label is not None:
            *_, bias = model.parameters()
            bias[label] = 8.0
    return model


def begin(name: str, first: Snapshot | nn.Module | None = None, *, follow_relabelling: bool = False) -> Lineage:
    """A lineage that begins with a snapshot, with a tiny network, or with one that knows nothing."""
    generator = seeded(0)
    if not isinstance(first, Snapshot):
        first = Snapshot("tiny", ARGUMENTS, first or network())
    start = Start(first, MEAN, STD, CLASSES, generator, follow_relabelling)
    return Lineage(strategies.strategy(name)(start), generator)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """See that all tensors are the same to the last bit."""
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def stored(dumped: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A dump as it comes back from a file: contiguous copies of the tensors, and what JSON makes of the state."""
    tensors, state = dumped
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, json.loads(
        json.dumps(state)
    )


def labelled(label: int, count: int = 60) -> Images:
    return Images(CLEAN.pixels[:count], torch.full((count,), label))


# --- the strategy `mixture`


def member(lineage: Lineage, name: str) -> dict[str, torch.Tensor]:
    """Everything that makes a member what it is, its colours included."""
    tensors, _ = lineage.strategy.dump()
    return {
        key.removeprefix(f"{name}/"): tensor.clone() for key, tensor in tensors.items() if key.startswith(f"{name}/")
    }
