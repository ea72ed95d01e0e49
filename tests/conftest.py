from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch
from helpers import Home, load_data, once_a_run, open_registry, train_home

from cifarctl import cpus

# What they assert is shown as in test modules.
pytest.register_assert_rewrite("letters_anywhere", "browsing_anywhere", "tutorial_anywhere")

#: Brokers and running commands, for every module.
pytest_plugins = ["fixtures_broker", "fixtures_kafka", "processes"]

# Read, and resolved, before the fixture below clears the environment and changes the folder.
_GIVEN = os.environ.get("CIFARCTL_DATA__DIR")
CIFAR10_DIR = Path(_GIVEN).resolve() if _GIVEN else None

# Shared machines are slow at moments, which says nothing about the code.
hypothesis.settings.register_profile("cifarctl", deadline=None, max_examples=50)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=15)  # make test-fast, for every edit
hypothesis.settings.load_profile("cifarctl")

# The tests' models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _cache: Path) -> None:
    """No variable, .env, cifarctl.toml or cache of the developer reaches a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small trained registry that nobody may write to; `home` is a copy for one test."""
    folder = once_a_run(tmp_path_factory, "trained-home", train_home)
    return Home(open_registry(folder), *load_data())


@pytest.fixture
def home(trained: Home, tmp_path: Path) -> Home:
    """A small trained registry of this test's own."""
    return trained.copy(tmp_path / "registry")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: much of what the tests do is waiting for brokers and processes."""
    return cpus.count() + 1


#: Tests of these folders get the marker of that name; those of unit/ get none.
TIERS = ("broker", "kafka", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with their tier, and begin with those that take long, so that no worker is left alone at the end."""
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
