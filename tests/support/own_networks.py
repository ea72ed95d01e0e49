"""Architectures of people's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN = """
from torch import nn

with open({marker!r}, "a") as marker:
    marker.write("x")

class Small(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, classes))

class Wide(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(3072, classes + 1)

    def forward(self, images):
        return self.layer(images.flatten(1))

class Deaf(nn.Module):
    def __init__(self, classes):
        super().__init__()

    def forward(self, images):
        raise ValueError("I hear nothing")

class Lazy(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(classes))
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self[1](self[0](images))

def text(classes):
    return "a network"
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A module `own_networks` in the present folder; the file returned grows whenever its code is run."""
    marker = tmp_path / "marker"
    (tmp_path / "own_networks.py").write_text(OWN.format(marker=str(marker)))
    path = list(sys.path)
    yield marker
    sys.path[:] = path
    sys.modules.pop("own_networks", None)
