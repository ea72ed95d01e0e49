"""The registry's folder: publishing, aliases, history, clean-up, and what crashes leave behind."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers import draft
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cifarctl.errors import AliasConflict, IntegrityError, RegistryBusy, RegistryError, Superseded, VersionNotFound
from cifarctl.registry import Alias, Description, Move, Registry
from cifarctl.registry.history import Action
from cifarctl.registry.requests import Requests
from cifarctl.settings import RegistrySettings

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, hours: float) -> None:
        self.now += timedelta(hours=hours)


def open_registry(path: Path, clock: Callable[[], datetime] | None = None, **values: Any) -> Registry:
    return Registry(RegistrySettings(dir=path / "registry", **values), clock or Clock())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def publish(registry: Registry, count: int = 1) -> list[int]:
    return [registry.publish(draft(), b"weights").version for _ in range(count)]


def promote(registry: Registry, version: int | str, **values: Any) -> Alias:
    return registry.promote(version, who="test", why="because", **values)


def rollback(registry: Registry, **values: Any) -> Alias:
    return registry.rollback(who="test", why="worse", **values)


def remove(registry: Registry, alias: str = "production") -> bool:
    return registry.remove_alias(alias, who="test", why="over")


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


def test_a_metric_that_is_no_number_is_none(registry: Registry) -> None:
    manifest = registry.publish(draft(metrics={"loss": float("nan"), "accuracy": 1}), b"")
    assert manifest.metrics == {"loss": None, "accuracy": 1.0}
    assert registry.manifest(1) == manifest


def test_a_version_is_described_like_another_but_for_changes(registry: Registry) -> None:
    manifest = registry.publish(draft(parent=None), b"weights")
    description = Description.like(manifest, parent=1, metrics={"accuracy": float("nan")})
    assert (description.parent, description.metrics) == (1, {"accuracy": None})
    assert description.model_dump(exclude={"parent", "metrics"}) == manifest.model_dump(
        include=set(Description.model_fields) - {"parent", "metrics"}
    )
    with pytest.raises(TypeError, match="no such field of a description: parents"):
        Description.like(manifest, parents=1)


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


def test_listing_imports_no_torch() -> None:
    code = "import sys, cifarctl.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- references


def test_references(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 2)
    for reference in (2, "2", "000002", "v2", "production"):
        assert registry.resolve(reference) == 2
    assert registry.resolve("latest") == 3


@pytest.mark.parametrize("reference", [0, -1, 9, "v9", "staging", "Production", "", "../000001", "٣", "9" * 5000])
def test_a_reference_to_nothing_says_what_there_is(registry: Registry, reference: str | int) -> None:
    publish(registry, 2)
    promote(registry, 1)
    with pytest.raises(VersionNotFound, match=r"there is 1, 2, production = 1"):
        registry.resolve(reference)


def test_latest_of_nothing_tells_the_remedy(registry: Registry) -> None:
    with pytest.raises(VersionNotFound, match="cifarctl train"):
        registry.resolve("latest")


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True))
@settings(max_examples=12, deadline=None)
def test_well_formed_alias_names_work(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    registry = open_registry(tmp_path_factory.mktemp("alias"))
    publish(registry)
    if name == "latest" or (name[0] == "v" and name[1:].isdigit()):
        with pytest.raises(RegistryError, match="not allowed"):
            promote(registry, 1, alias=name)
    else:
        assert promote(registry, 1, alias=name) == registry.alias(name) == registry.aliases()[name]
        assert registry.resolve(name) == 1


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_other_alias_names_are_refused_and_leave_nothing(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    good = name[:1] in set("abcdefghijklmnopqrstuvwxyz") and len(name) <= 64
    if good and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
        return
    registry = open_registry(tmp_path_factory.getbasetemp() / "never-written")
    with pytest.raises(RegistryError, match="not allowed"):
        promote(registry, 1, alias=name)
    with pytest.raises(RegistryError, match="not allowed"):
        registry.alias(name)
    assert not registry.dir.exists()


@pytest.mark.parametrize("name", ["latest", "v7", "v0000"])
def test_reserved_alias_names(registry: Registry, name: str) -> None:
    publish(registry)
    with pytest.raises(RegistryError, match="not allowed"):
        promote(registry, 1, alias=name)


# --- moves


def test_promotion_is_recorded(tmp_path: Path) -> None:
    clock = Clock()
    registry = open_registry(tmp_path, clock)
    publish(registry, 2)
    promote(registry, 1)
    clock.advance(1)
    alias = registry.promote("latest", who="somebody", why="better\nby far")
    assert alias == registry.alias("production")
    assert (alias.version, alias.generation) == (2, 2)
    assert alias.moved == "2026-01-01T01:00:00.000+00:00"
    first, second = registry.history("production")
    assert (first.from_version, first.to_version, first.action) == (None, 1, "promote")
    assert (second.from_version, second.to_version, second.generation) == (1, 2, 2)
    assert (second.who, second.why, second.time) == ("somebody", "better\nby far", alias.moved)


def test_promoting_what_is_there_changes_nothing(registry: Registry) -> None:
    publish(registry)
    alias = promote(registry, 1)
    assert promote(registry, 1) == alias
    assert len(registry.history()) == 1


def test_promoting_nothing_is_refused(registry: Registry) -> None:
    publish(registry)
    with pytest.raises(VersionNotFound):
        promote(registry, 2)
    assert registry.aliases() == {}


def test_of_two_promoters_with_one_belief_the_second_loses(registry: Registry) -> None:
    publish(registry, 3)
    assert promote(registry, 1, expected_generation=0).generation == 1
    promote(registry, 2, expected_generation=1)
    with pytest.raises(AliasConflict, match="version 2 at generation 2, not 1"):
        promote(registry, 3, expected_generation=1)
    assert registry.resolve("production") == 2
    assert len(registry.history()) == 2


def decided(registry: Registry, version: int, action: Action = "promote", **values: Any) -> Move:
    """A learner's decision about production as it is."""
    alias = registry.alias("production")
    assert alias is not None
    facts = {
        "time": "2026-01-01T00:00:00+00:00",
        "alias": "production",
        "action": action,
        "from_version": alias.version,
        "to_version": version,
        "who": "learner",
        "why": "because",
        "generation": alias.generation + (action != "reject"),
    }
    return Move.model_validate(facts | values)


def test_an_alias_never_takes_an_older_epoch(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    assert registry.carry_out(decided(registry, 2, epoch=5)).epoch == 5
    promote(registry, 1)  # a person has no epoch, and does not reopen the door to an old learner
    for action in ("promote", "rollback", "reject"):
        with pytest.raises(AliasConflict, match="epoch 4 is over"):
            registry.carry_out(decided(registry, 2, action, epoch=4))
    assert registry.carry_out(decided(registry, 3, epoch=5)).version == 3


@pytest.mark.parametrize("action", ["promote", "rollback", "reject"])
def test_a_decision_is_carried_out_once(registry: Registry, action: Action) -> None:
    publish(registry, 2)
    for version in (1, 2):
        promote(registry, version)
    move = decided(registry, 1, action, epoch=2, at=77)
    alias = registry.carry_out(move)
    assert alias.version == (2 if action == "reject" else 1)
    assert registry.carry_out(move) == alias == registry.alias("production")
    found = [known for known in registry.history() if known.who == "learner"]
    assert [(known.action, known.to_version, known.epoch, known.at) for known in found] == [(action, 1, 2, 77)]


def test_a_decision_on_what_has_moved_since_is_not_carried_out(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    move = decided(registry, 2)
    promote(registry, 3)
    with pytest.raises(AliasConflict, match="somebody moved it first"):
        registry.carry_out(move)
    with pytest.raises(AliasConflict, match="is not set"):
        registry.carry_out(move.model_copy(update={"alias": "staging"}))
    with pytest.raises(VersionNotFound):
        registry.carry_out(decided(registry, 9))
    assert registry.resolve("production") == 3


def test_epochs_rise_whatever_becomes_of_their_file(registry: Registry) -> None:
    publish(registry, 2)
    promote(registry, 1)
    for after, epoch in ((0, 1), (0, 2), (6, 7)):
        assert registry.next_epoch(after) == epoch
        registry.begin_epoch(epoch)
    registry.begin_epoch(3)  # over by now
    registry.carry_out(decided(registry, 2, epoch=7))
    (registry.dir / "learner" / "epoch-production").unlink()
    assert registry.next_epoch() == 8
    registry.begin_epoch(8)
    with registry.in_epoch(8):
        pass
    with pytest.raises(Superseded, match="epoch 7 is over, this is epoch 8"), registry.in_epoch(7):
        pass


def test_rollback_walks_back_one_step_at_a_time(registry: Registry) -> None:
    publish(registry, 4)
    for version in (1, 2, 3):
        promote(registry, version)
    assert rollback(registry).version == 2
    assert rollback(registry).version == 1
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)
    promote(registry, 4)
    assert rollback(registry).version == 1
    assert [move.action for move in registry.history()] == ["promote"] * 3 + ["rollback"] * 2 + [
        "promote",
        "rollback",
    ]


def test_rollback_of_an_alias_that_was_never_set(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)


def test_aliases_have_histories_of_their_own(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    promote(registry, 3, alias="canary")
    promote(registry, 2)
    assert rollback(registry).version == 1
    assert registry.resolve("canary") == 3
    with pytest.raises(RegistryError, match="canary has nothing"):
        rollback(registry, alias="canary")


def test_an_alias_that_was_taken_away_names_nothing(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 1)
    promote(registry, 2, alias="canary")
    assert remove(registry, "canary")
    assert not remove(registry, "canary")
    assert (registry.alias("canary"), list(registry.aliases())) == (None, ["production"])
    with pytest.raises(VersionNotFound, match=r"no version or alias 'canary' .*, production = 1$"):
        registry.resolve("canary")
    (made, taken) = registry.history("canary")
    assert (taken.action, taken.from_version, taken.to_version) == ("remove", 2, None)
    assert (taken.who, taken.why, taken.generation) == ("test", "over", made.generation + 1)
    with pytest.raises(RegistryError, match="canary has nothing to go back to"):
        rollback(registry, alias="canary")


def test_an_alias_that_comes_back_begins_anew_but_its_generations_never_come_again(registry: Registry) -> None:
    publish(registry, 3)
    promote(registry, 2)
    registry.carry_out(decided(registry, 1, epoch=5))
    remove(registry)
    with pytest.raises(AliasConflict, match="is not set at generation 0, not 1"):
        promote(registry, 2, expected_generation=1)
    assert promote(registry, 2, expected_generation=0).generation == 4
    with pytest.raises(AliasConflict):
        promote(registry, 3, expected_generation=0)
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback(registry)
    with pytest.raises(AliasConflict, match="epoch 4 is over"):
        registry.carry_out(decided(registry, 3, epoch=4))
    promote(registry, 3)
    assert rollback(registry).version == 2
    assert [move.to_version for move in registry.history()] == [2, 1, None, 2, 3, 2]


@pytest.mark.parametrize("name", ["latest", "v7", "Production", ""])
def test_what_can_be_no_alias_is_not_taken_away(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="not allowed"):
        remove(registry, name)
    assert not registry.dir.exists()


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


PUBLISH_AND_HANG = """
import sys, time
from collections.abc import Mapping
from pathlib import Path
from cifarctl.registry import Draft, Registry
from cifarctl.settings import RegistrySettings

class Stuck(Mapping):
    def __iter__(self): return iter(["plot.png"])
    def __len__(self): return 1
    def __getitem__(self, name):
        print("half-way", flush=True)
        time.sleep(600)

Registry(RegistrySettings(dir=Path(sys.argv[1]))).publish(
    Draft.model_validate_json(sys.argv[2]), b"weights", Stuck())
"""


def test_a_publisher_killed_half_way_leaves_no_version(registry: Registry) -> None:
    publish(registry)
    command = [sys.executable, "-c", PUBLISH_AND_HANG, str(registry.dir), draft().model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half-way\n"
        process.kill()
    assert registry.numbers() == [1]
    assert len(list((registry.dir / "versions").iterdir())) == 2
    assert publish(registry) == [2]
    (removed,) = registry.gc()
    assert removed.version is None
    assert removed.bytes > len(b"weights")
    assert sorted(entry.name for entry in (registry.dir / "versions").iterdir()) == ["000001", "000002"]


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


# --- several writers


def publish_some(path: Path, count: int, answers: Any) -> None:
    registry = Registry(RegistrySettings(dir=path))
    answers.put([registry.publish(draft(), b"weights").version for _ in range(count)])


@pytest.mark.slow
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


def test_a_lock_that_is_held_makes_the_registry_busy(tmp_path: Path) -> None:
    registry = open_registry(tmp_path, lock_timeout=0.05)
    publish(registry)
    with FileLock(registry.dir / ".lock"):
        with pytest.raises(RegistryBusy, match=r"lock_timeout"):
            publish(registry)
        assert registry.numbers() == [1]
    assert publish(registry) == [2]


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


# --- clean-up


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


def test_gc_keeps_what_aliases_name_or_named_of_late(tmp_path: Path) -> None:
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


def test_a_request_waits_until_it_is_answered_whoever_looks(tmp_path: Path) -> None:
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
