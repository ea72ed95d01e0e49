"""The real CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_refusals import SHARES

from cifarctl.data import load, split
from cifarctl.settings import DataSettings


@pytest.mark.cifar10
def test_the_real_cifar10(cifar10_dir: Path) -> None:
    data = load(DataSettings(source="cifar10", dir=cifar10_dir, download=False))
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.classes[0] == "airplane"
    assert data.train.labels.bincount().tolist() == [5000] * 10
    mean = data.train.pixels.float().mean(dim=(0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    parts = split(data.train.labels, SHARES, 0)
    assert [len(index) for index in (parts.train, parts.validation, parts.stream)] == [35_000, 5_000, 10_000]
