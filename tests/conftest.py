from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Read, and resolved, before the fixture below clears the environment and changes the folder.
_GIVEN = os.environ.get("CIFARCTL_DATA__DIR")
CIFAR10_DIR = Path(_GIVEN).resolve() if _GIVEN else None

# Shared machines are slow at moments, which says nothing about the code.
hypothesis.settings.register_profile("cifarctl", deadline=None, max_examples=50)
hypothesis.settings.load_profile("cifarctl")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, .env or cifarctl.toml of the developer reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith("CIFARCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder that holds the real cifar-10-batches-py; the test is skipped where there is none."""
    if CIFAR10_DIR is None or not (CIFAR10_DIR / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFARCTL_DATA__DIR names no folder that holds cifar-10-batches-py")
    return CIFAR10_DIR
