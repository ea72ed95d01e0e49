"""Validation images in the registry."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import Home, cifarctl, open_registry
from inference import pictures

from cifarctl.registry import validation
from cifarctl.registry.loading import load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


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
