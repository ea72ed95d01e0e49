"""What crashes, full disks and wrong places leave of a registry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from helpers import draft
from registries import open_registry, promote, publish, remove, rollback

from cifarctl.errors import RegistryError
from cifarctl.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


# --- crashes


def test_a_removal_that_never_reached_its_alias_did_not_happen(registry: Registry) -> None:
    publish(registry, 2)
    promote(registry, 1)
    before = (registry.dir / "aliases" / "production").read_bytes()
    remove(registry)
    (registry.dir / "aliases" / "production").write_bytes(before)  # as if the crash came before the replacement
    assert registry.resolve("production") == 1
    assert [move.action for move in registry.history()] == ["promote"]
    promote(registry, 2)
    assert rollback(registry).version == 1


def test_a_move_that_never_reached_its_alias_did_not_happen(registry: Registry) -> None:
    publish(registry, 4)
    promote(registry, 1)
    promote(registry, 2)
    before = (registry.dir / "aliases" / "production").read_bytes()
    promote(registry, 3)
    (registry.dir / "aliases" / "production").write_bytes(before)  # as if the crash came before the replacement
    assert [move.to_version for move in registry.history()] == [1, 2]
    assert promote(registry, 4).generation == 3
    assert [move.to_version for move in registry.history()] == [1, 2, 4]
    assert rollback(registry).version == 2


@pytest.mark.parametrize("torn", [b'{"time": "2026', b"\xff\xc3", b'{"time": "2026-01-01"}'])
def test_a_torn_last_line_is_passed_over(registry: Registry, torn: bytes) -> None:
    publish(registry, 2)
    promote(registry, 1)
    with (registry.dir / "history.jsonl").open("ab") as file:
        file.write(torn)
    assert [move.to_version for move in registry.history()] == [1]
    promote(registry, 2)
    assert [move.to_version for move in registry.history()] == [1, 2]
    assert rollback(registry).version == 1


def test_a_broken_alias_file_is_named(registry: Registry) -> None:
    publish(registry)
    promote(registry, 1)
    (registry.dir / "aliases" / "production").write_text("{")
    with pytest.raises(RegistryError, match=r"aliases.production: not an alias file"):
        registry.resolve("production")
    with pytest.raises(RegistryError, match="not an alias file"):
        registry.gc()


def test_staging_left_behind_is_invisible_and_collected(registry: Registry) -> None:
    publish(registry)
    staging = registry.dir / "versions" / ".staging-dead"
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(b"half")
    assert registry.numbers() == [1]
    (found,) = registry.gc(dry_run=True)
    assert (found.version, found.path, found.bytes) == (None, staging, 4)
    assert staging.exists()
    assert registry.gc() == [found]
    assert not staging.exists()
    assert registry.gc() == []


def test_a_removal_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    publish(registry, 2)
    registry.path(2).rename(registry.dir / "versions" / ".trash-000002-dead")
    assert publish(registry) == [3]  # the number stays used before any tombstone tells so
    (removed,) = registry.gc()
    assert removed.version == 2
    tombstone = json.loads((registry.dir / "versions" / "000002.deleted").read_text())
    assert tombstone["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert registry.gc() == []


# --- a full disk, a wrong place


def test_a_full_disk_is_one_line_and_leaves_nothing(registry: Registry) -> None:
    resource = pytest.importorskip("resource")
    publish(registry)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # a write beyond it fails half-way
    try:
        with pytest.raises(RegistryError) as caught:
            registry.publish(draft(), bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in str(caught.value)
    assert str(registry.dir) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in (registry.dir / "versions").iterdir()] == ["000001"]
    assert publish(registry) == [2]


def test_a_file_where_the_registry_should_be(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("")
    registry = open_registry(tmp_path)
    for act in (registry.numbers, registry.aliases, registry.history, registry.gc, lambda: publish(registry)):
        with pytest.raises(RegistryError, match="registry"):
            act()
