"""One epoch of the real CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import cifarctl, open_registry


@pytest.mark.cifar10
def test_one_epoch_of_cifar10_is_well_above_chance(cifar10_dir: Path, tmp_path: Path) -> None:
    result = cifarctl(
        "train", "--json", "--epochs", "1", f"--set=data.dir={cifar10_dir}", "--set=data.source=cifar10",
        f"--set=registry.dir={tmp_path / 'registry'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["train_images"] == 35_000
    assert document["validation_accuracy"] > 0.45
    assert document["test_accuracy"] > 0.45
    manifest = open_registry(tmp_path / "registry").manifest(document["version"])
    assert (manifest.split.source, manifest.split.seen) == ("cifar10", ("train",))
