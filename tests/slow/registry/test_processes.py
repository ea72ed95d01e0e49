"""Several processes that publish to one registry at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from helpers import draft
from registries import open_registry

from cifarctl.registry import Registry
from cifarctl.settings import RegistrySettings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def publish_some(path: Path, count: int, answers: Any) -> None:
    registry = Registry(RegistrySettings(dir=path))
    answers.put([registry.publish(draft(), b"weights").version for _ in range(count)])


def test_two_processes_publish_at_once(registry: Registry) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    writers = [context.Process(target=publish_some, args=(registry.dir, 6, answers)) for _ in range(2)]
    for writer in writers:
        writer.start()
    numbers = [number for _ in writers for number in answers.get(timeout=60)]
    for writer in writers:
        writer.join()
    assert sorted(numbers) == list(range(1, 13))
    assert [manifest.version for manifest in registry.versions()] == list(range(1, 13))
    assert all(registry.verify(number) == [] for number in numbers)
