"""The lock of a registry as a leadership."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import draft

from cifarctl.learning.leadership import RegistryLeadership
from cifarctl.registry import Registry
from cifarctl.registry.claims import Stream
from cifarctl.settings import RegistrySettings

PATIENCE_S = 60.0
STREAM = Stream(None, "cifar", "cifarctl", "production")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, the first in production."""
    registry = Registry(RegistrySettings(dir=tmp_path / "registry"))
    for _ in range(2):
        registry.publish(draft(), b"weights")
    registry.promote(1, who="test", why="first")
    return registry


def patient() -> None:
    """Nothing is reported while the broker does not answer."""


def test_the_lock_of_a_registry_gives_leadership(registry: Registry) -> None:
    first, second = RegistryLeadership(registry, STREAM), RegistryLeadership(registry, STREAM)
    assert not first.taken
    assert first.wait(0)
    assert (first.held, second.taken, second.wait(0.01), second.held) == (True, True, False, False)
    assert first.take(patient) == 1
    first.close()
    assert second.wait(PATIENCE_S)
    assert second.take(patient) == 2
