"""Clean-up: which versions go, and which stay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from helpers import draft
from registries import Clock, open_registry, promote, publish, remove, rollback

from cifarctl.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def test_gc_keeps_the_newest_and_leaves_tombstones(tmp_path: Path) -> None:
    registry = open_registry(tmp_path, keep=2)
    publish(registry, 4)
    planned = registry.gc(dry_run=True)
    assert registry.numbers() == [1, 2, 3, 4]
    assert registry.gc() == planned
    assert [removed.version for removed in planned] == [1, 2]
    assert registry.numbers() == [3, 4]
    tombstone = json.loads((registry.dir / "versions" / "000001.deleted").read_text())
    assert tombstone["version"] == 1
    assert tombstone["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert publish(registry) == [5]


def test_numbers_are_not_reused_when_the_last_is_gone(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 3)
    for number in (2, 3):
        registry.path(number).rename(tmp := registry.dir / f"gone-{number}")
        assert tmp.exists()
    assert publish(registry) == [4]  # the history remembers 3


def test_gc_keeps_versions_that_aliases_name_or_recently_named(tmp_path: Path) -> None:
    clock = Clock()
    registry = open_registry(tmp_path, clock, keep=1, keep_hours=24)
    publish(registry, 6)
    for version in (1, 2, 3, 4):
        promote(registry, version)
        clock.advance(10)
    # hours 0, 10, 20, 30; it is 40: version 1 was left at 10, version 2 at 20 (within 24 hours)
    assert [removed.version for removed in registry.gc()] == [1, 5]
    clock.advance(1000)
    assert [removed.version for removed in registry.gc()] == [2]  # 3 is what a rollback returns to
    assert registry.numbers() == [3, 4, 6]
    assert rollback(registry).version == 3


def test_gc_of_a_learner_keeps_what_it_began_with_and_what_others_have_made(tmp_path: Path) -> None:
    """Its snapshots follow each other by the hundred: to have been named recently keeps none of them."""
    registry = open_registry(tmp_path, Clock(), keep=2, keep_hours=24)
    publish(registry, 2)  # somebody's, never promoted
    (base,) = publish(registry)
    promote(registry, base)
    for _ in range(5):
        snapshot = registry.publish(draft(origin="learner", metrics={"base": float(base)}), b"weights").version
        promote(registry, snapshot)
    assert [removed.version for removed in registry.gc(of="learner")] == [5, 6]  # 4 was what began it
    assert registry.numbers() == [1, 2, base, 4, 7, 8]
    assert rollback(registry).version == 7
    assert [removed.version for removed in registry.gc(dry_run=True)] == [1, 2]


def test_gc_keeps_what_a_canary_names_and_no_former_ones(tmp_path: Path) -> None:
    """However lately they were named: a trial has one snapshot after another, and there are many trials."""
    registry = open_registry(tmp_path, Clock(), keep=1, keep_hours=24)
    (base,) = publish(registry)
    promote(registry, base)

    def try_out(count: int) -> list[int]:
        made = [
            registry.publish(draft(origin="learner", metrics={"base": float(base)}), b"weights").version
            for _ in range(count)
        ]
        for version in made:
            promote(registry, version, alias="production-canary")
        return made

    former = try_out(3)
    remove(registry, "production-canary")
    present = try_out(4)  # of which the first began it, and a rollback would go to the third
    publish(registry)
    assert [removed.version for removed in registry.gc(of="learner")] == [*former, present[1]]
    remove(registry, "production-canary")
    promote(registry, present[3])
    assert [removed.version for removed in registry.gc()] == [present[0], present[2]]
    assert rollback(registry).version == base


def test_rollback_steps_over_versions_that_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    registry = open_registry(tmp_path, clock, keep=1, keep_hours=0)
    publish(registry, 4)
    for version in (1, 2, 3):
        promote(registry, version)
    promote(registry, 1, alias="pinned")
    clock.advance(1)
    rollback(registry)
    promote(registry, 4)
    clock.advance(1)
    assert [removed.version for removed in registry.gc()] == [3]
    assert rollback(registry).version == 2
    clock.advance(1)
    promote(registry, 4)
    assert rollback(registry).version == 2
    assert rollback(registry).version == 1


def test_keeping_for_ever(tmp_path: Path) -> None:
    registry = open_registry(tmp_path, keep=1, keep_hours=1e12)
    publish(registry, 4)
    for version in (1, 2, 4):
        promote(registry, version)
    assert [removed.version for removed in registry.gc()] == [3]
