"""The registry's folder: publishing and reading, locks, requests, and any sequence of these."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import draft
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from registries import Clock, open_registry, promote, publish, remove, rollback

from cifarctl.errors import IntegrityError, RegistryBusy, RegistryError, VersionNotFound
from cifarctl.registry import Registry
from cifarctl.registry.requests import Requests


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


# --- publishing and reading


def test_an_absent_registry_is_empty_and_reading_does_not_create_it(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.aliases() == {}
    assert registry.alias("production") is None
    assert registry.history() == []
    assert registry.gc() == []
    assert not registry.dir.exists()


def test_a_published_version_reads_back_as_it_was(registry: Registry) -> None:
    manifest = registry.publish(
        draft(settings={"path": Path("a"), "shares": (0.5, 0.5)}), b"weights", {"loss.png": b"png"}
    )
    assert manifest.version == 1
    assert manifest.created == "2026-01-01T00:00:00.000+00:00"
    assert manifest.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert registry.manifest(1) == manifest
    assert registry.versions() == [manifest]
    assert registry.read_weights(1) == (manifest, b"weights")
    assert registry.verify(1) == []
    assert registry.path(1) == registry.dir / "versions" / "000001"
    assert (registry.path(1) / "plots" / "loss.png").read_bytes() == b"png"
    assert sorted(entry.name for entry in registry.path(1).parent.iterdir()) == ["000001"]


def test_a_nan_metric_becomes_none(registry: Registry) -> None:
    manifest = registry.publish(draft(metrics={"loss": float("nan"), "accuracy": 1}), b"")
    assert manifest.metrics == {"loss": None, "accuracy": 1.0}
    assert registry.manifest(1) == manifest


def test_numbers_beyond_six_digits_sort_by_value(registry: Registry) -> None:
    publish(registry)
    versions = registry.path(1).parent
    text = (versions / "000001" / "manifest.json").read_text()
    (versions / "000001").rename(versions / "999999")
    (versions / "999999" / "manifest.json").write_text(text.replace('"version": 1,', '"version": 999999,'))
    assert publish(registry, 2) == [1_000_000, 1_000_001]
    assert registry.numbers() == [999_999, 1_000_000, 1_000_001]
    assert registry.resolve("latest") == 1_000_001


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "..", "a\\b", "new\nline"])
def test_names_of_files_must_be_plain(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="file name"):
        registry.publish(draft(), b"", {name: b""})
    assert registry.numbers() == []


def test_what_could_not_be_loaded_again_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="max_model_mb = 1"):
        open_registry(tmp_path, max_model_mb=1).publish(draft(), bytes((1 << 20) + 1))


def test_a_manifest_that_is_not_json_is_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="manifest cannot be written"):
        registry.publish(draft(settings={"object": object()}), b"")
    assert registry.numbers() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}'])
def test_a_broken_manifest_is_named(registry: Registry, text: str) -> None:
    publish(registry, 2)
    path = registry.path(1) / "manifest.json"
    path.write_text(text)
    for read in (lambda: registry.manifest(1), registry.versions, lambda: registry.read_weights(1)):
        with pytest.raises(IntegrityError, match=r"000001.manifest\.json") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert len(registry.verify(1)) == 1
    assert registry.numbers() == [1, 2]
    assert publish(registry) == [3]


def test_a_flipped_byte_is_an_error_with_both_hashes(registry: Registry) -> None:
    publish(registry)
    (registry.path(1) / "model.safetensors").write_bytes(b"wEights")
    with pytest.raises(IntegrityError) as caught:
        registry.read_weights(1)
    for part in (
        "version 1",
        hashlib.sha256(b"weights").hexdigest(),
        hashlib.sha256(b"wEights").hexdigest(),
    ):
        assert part in str(caught.value)


def test_verify_tells_every_problem(registry: Registry) -> None:
    publish(registry, 4)
    (registry.path(1) / "model.safetensors").write_bytes(b"weight")
    (registry.path(2) / "model.safetensors").unlink()
    (registry.path(3) / "notes.txt").write_text("hello")
    text = (registry.path(4) / "manifest.json").read_text()
    (registry.path(4) / "manifest.json").write_text(text.replace('"version": 4', '"version": 5'))
    size, digest = registry.verify(1)
    assert "6 bytes, the manifest says 7" in size
    assert "sha256" in digest
    assert ["missing" in line for line in registry.verify(2)] == [True]
    assert ["notes.txt" in line for line in registry.verify(3)] == [True]
    assert ["says version 5, not 4" in line for line in registry.verify(4)] == [True]
    with pytest.raises(IntegrityError, match="missing"):
        registry.read_weights(2)
    with pytest.raises(VersionNotFound):
        registry.verify(9)


# --- several writers


def test_a_lock_that_is_held_makes_the_registry_busy(tmp_path: Path) -> None:
    registry = open_registry(tmp_path, lock_timeout=0.05)
    publish(registry)
    with FileLock(registry.dir / ".lock"):
        with pytest.raises(RegistryBusy, match=r"lock_timeout"):
            publish(registry)
        assert registry.numbers() == [1]
    assert publish(registry) == [2]


# --- clean-up


class Life(RuleBasedStateMachine):
    """Random lives of a registry against a model of a few lines: a set, a counter and a stack."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.registry = open_registry(Path(self.folder.name), self.clock, keep=2, keep_hours=5)
        self.highest = 0
        self.existing: set[int] = set()
        self.stack: list[int] = []
        self.named: list[tuple[datetime, int]] = []
        self.generation = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule()
    def publish(self) -> None:
        self.highest += 1
        self.existing.add(self.highest)
        assert publish(self.registry) == [self.highest]

    @precondition(lambda self: self.existing)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.existing)))
        alias = promote(self.registry, version, expected_generation=self.generation if self.stack else 0)
        if self.stack[-1:] != [version]:
            self.leave()
            self.stack.append(version)
            self.generation += 1
            self.named.append((self.clock.now, version))
        assert alias.generation == self.generation

    @rule()
    def rollback(self) -> None:
        below = [i for i, v in enumerate(self.stack[:-1]) if v in self.existing and v != self.stack[-1]]
        if not below:
            with pytest.raises(RegistryError, match="nothing to go back to"):
                rollback(self.registry)
            return
        self.leave()
        del self.stack[below[-1] + 1 :]
        self.generation += 1
        self.named.append((self.clock.now, self.stack[-1]))
        assert rollback(self.registry).version == self.stack[-1]

    @rule()
    def remove(self) -> None:
        """What it has named before counts for nothing any more."""
        assert remove(self.registry) == bool(self.stack)
        self.generation += bool(self.stack)
        self.stack, self.named = [], []

    def leave(self) -> None:
        if self.stack:
            self.named.append((self.clock.now, self.stack[-1]))

    @rule(hours=st.integers(1, 6))
    def wait(self, hours: int) -> None:
        self.clock.advance(hours)

    @rule()
    def gc(self) -> None:
        newest = set(sorted(self.existing)[-2:])
        back = [v for v in self.stack[:-1] if v in self.existing and v != self.stack[-1]]
        late = {v for time, v in self.named if self.clock.now - time <= timedelta(hours=5)}
        keep = newest | set(self.stack[-1:]) | set(back[-1:]) | late
        gone = self.existing - keep
        assert {removed.version for removed in self.registry.gc()} == gone
        self.existing -= gone

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "registry"):
            return
        assert self.registry.numbers() == sorted(self.existing)
        alias = self.registry.alias("production")
        assert (None if alias is None else alias.version) == (self.stack[-1] if self.stack else None)
        assert alias is None or alias.generation == self.generation


Life.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


def test_a_request_waits_until_it_is_answered_even_if_others_look(tmp_path: Path) -> None:
    """A learner that dies over it leaves it to the next one."""
    requests = Requests(tmp_path)
    first, second = requests.ask(), requests.ask()
    assert sorted(requests.waiting()) == sorted(Requests(tmp_path).waiting()) == sorted([first, second])
    assert requests.fetch(first) is None
    requests.answer(first, {"outcome": "promoted"})
    assert requests.waiting() == [second]
    assert requests.fetch(first) == {"outcome": "promoted"}
    assert requests.fetch(first) is None
    requests.withdraw(second)
    assert requests.waiting() == []
    assert list((tmp_path / "learner" / "requests" / "production").iterdir()) == []
