"""Aliases and their history after damage: what is said, what heals, and that nothing is lost meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import Home, cifarctl, draft, open_registry, republish
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cifarctl.errors import AliasConflict, AliasDamaged, RegistryError
from cifarctl.registry import Alias, Registry, pointers

REMEDY = "cifarctl registry verify --repair"
DESTRUCTIVE = ("delete", "remove it", "rm ")
WEIGHTS = b"weights"


def alias_file(registry: Registry) -> Path:
    return registry.dir / "aliases" / "production"


def history_file(registry: Registry) -> Path:
    return registry.dir / "history.jsonl"


def promote(registry: Registry, version: int, **values: Any) -> Alias:
    return registry.promote(version, **({"who": "test", "why": "because"} | values))


@pytest.fixture
def moved(tmp_path: Path) -> Registry:
    """Six versions, of which production has named 1, 2, 3 and 2 again; gc would keep the newest alone."""
    registry = open_registry(tmp_path / "registry", keep=1, keep_hours=0)
    for _ in range(6):
        registry.publish(draft(), WEIGHTS)
    promote(registry, 1)
    promote(registry, 2, epoch=7)
    promote(registry, 3)
    registry.rollback(who="test", why="worse")
    return registry


def verify(registry: Registry, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, the line on stderr, and the findings that are not about versions; nothing loads here, as it may."""
    result = cifarctl("registry", "verify", "--json", f"--set=registry.dir={registry.dir}", *options)
    rows = json.loads(result.stdout)
    return result.exit_code, result.stderr, [row for row in rows if row["version"] is None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- an alias that says nothing


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b'{"name": "production", "ver', None], ids=repr)
def test_an_alias_heals_from_the_history(moved: Registry, damage: bytes | None) -> None:
    before, history = moved.alias("production"), moved.history()
    assert (before.version, before.generation, before.epoch) == (2, 4, 7) if before else False
    file = alias_file(moved)
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(RegistryError, match=REMEDY) as caught:
        moved.alias("production")
    assert not any(word in str(caught.value) for word in DESTRUCTIVE)
    assert moved.history() == history
    with pytest.raises(RegistryError, match=REMEDY):
        moved.gc()
    assert moved.gc(of="train") == []
    assert moved.numbers() == [1, 2, 3, 4, 5, 6]
    assert moved.next_epoch() == 8
    _, line, found = verify(moved)
    assert "production" in line
    assert REMEDY in line
    assert [row["problem"] for row in found if str(file) in row["problem"]] != []

    _, _, found = verify(moved, "--repair")
    assert [(row["repaired"], str(file) in row["problem"]) for row in found] == [(True, True)]
    assert REMEDY not in found[0]["problem"], "it is done"
    assert moved.alias("production") == before
    assert moved.history() == history
    assert moved.faults() == []
    kept = [path.read_bytes() for path in (moved.dir / "damaged").glob("production-*")]
    assert kept == ([damage] if damage else [])
    after = contents(moved.dir)
    assert verify(moved, "--repair")[2] == []
    assert contents(moved.dir) == after
    assert [removed.version for removed in moved.gc()] == [3, 4, 5]
    assert moved.rollback(who="test", why="on").version == 1


def test_one_promotion_is_enough_to_heal_from(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "registry")
    registry.publish(draft(), WEIGHTS)
    before = promote(registry, 1)
    alias_file(registry).unlink()
    assert [fault.curable for fault in registry.faults()] == [True]
    registry.repair()
    assert registry.alias("production") == before


@pytest.mark.parametrize("damage", [b"", None], ids=repr)
def test_a_promotion_over_a_damaged_alias_goes_on_counting(moved: Registry, damage: bytes | None) -> None:
    """What we used to advise: delete the file and promote."""
    file = alias_file(moved)
    file.unlink() if damage is None else file.write_bytes(damage)
    assert promote(moved, 5).generation == 5
    assert [move.to_version for move in moved.history()] == [1, 2, 3, 2, 5]
    assert moved.rollback(who="test", why="back").version == 2


def test_a_rollback_over_a_damaged_alias(moved: Registry) -> None:
    alias_file(moved).write_bytes(b"")
    assert (moved.rollback(who="test", why="back").version) == 1
    assert moved.alias("production").generation == 5  # type: ignore[union-attr]


def test_generations_that_went_back_go_on_above_the_history(moved: Registry) -> None:
    """As in a registry of which somebody has followed that advice before."""
    alias_file(moved).write_text(
        json.dumps({"name": "production", "version": 5, "generation": 1, "moved": "2026-01-01T00:00:00+00:00"})
    )
    assert [move.to_version for move in moved.history()][:4] == [1, 2, 3, 2], "nothing is hidden"
    with pytest.raises(RegistryError, match="until then gc removes nothing"):
        moved.gc()
    moved.repair()
    healed = moved.alias("production")
    assert healed is not None
    assert (healed.version, healed.generation) == (5, 5)
    assert moved.faults() == []
    assert moved.rollback(who="test", why="back").version == 2


def test_what_nobody_knows_is_set_by_a_person(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "registry")
    registry.publish(draft(), WEIGHTS)
    (registry.dir / "aliases").mkdir()
    alias_file(registry).write_bytes(b'{"name": "production", "version": 1, "generation": 41, "mov')
    code, line, found = verify(registry, "--repair")
    assert code == 4
    assert "cifarctl registry promote VERSION --alias production" in line
    assert [row.get("repaired") for row in found] == [None]
    assert promote(registry, 1).generation == 42


def test_a_repair_that_can_heal_nothing_changes_nothing(moved: Registry) -> None:
    alias_file(moved).write_bytes(b'{"name": "production",')
    history_file(moved).write_bytes(b"")
    before = contents(moved.dir)
    for _ in range(2):
        moved.repair()
        assert contents(moved.dir) == before


@pytest.mark.parametrize("look", ["alias", "faults"])
def test_a_first_move_under_way_is_not_damage(look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history tells of it before the file of the alias is there."""
    registry = open_registry(tmp_path / "registry")
    registry.publish(draft(), WEIGHTS)
    told, looked = threading.Event(), threading.Event()
    write, wait = pointers.write_mark, pointers.time.sleep

    def held_back(*arguments: Any) -> None:
        told.set()
        assert looked.wait(60)
        write(*arguments)

    def sleep(seconds: float) -> None:  # of who reads, having seen the history alone
        looked.set()
        moving.join()
        wait(seconds)

    monkeypatch.setattr(pointers, "write_mark", held_back)
    monkeypatch.setattr(pointers.time, "sleep", sleep)
    moving = threading.Thread(target=promote, args=(registry, 1))
    moving.start()
    try:
        assert told.wait(60)
        if look == "alias":
            found = registry.alias("production")
            assert found is not None
            assert (found.version, found.generation) == (1, 1)
        else:
            assert registry.faults() == []
    finally:
        looked.set()
        moving.join()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("thing", ["folder", "loop", "pipe"])
def test_what_lies_in_the_place_of_an_alias_moves_away(moved: Registry, thing: str, known: bool) -> None:
    before, history = moved.alias("production"), moved.history()
    path = moved.dir / "aliases" / ("production" if known else "backup")
    path.unlink(missing_ok=True)
    if thing == "folder":
        path.mkdir()
        (path / "precious").write_bytes(b"kept")
    elif thing == "loop":
        path.symlink_to(path)
    else:
        os.mkfifo(path)
    assert moved.history() == history
    ignored = thing == "folder" and not known  # somebody's own, such as a copy
    if known:
        with pytest.raises(AliasDamaged, match=REMEDY):
            moved.alias("production")
        moved.repair()
        assert moved.alias("production") == before
    else:
        assert moved.alias("production") == before
        assert [fault.path for fault in moved.faults()] == ([] if ignored else [path])
        assert promote(moved, 1, alias="backup").version == 1
    assert moved.faults() == []
    (away,) = (moved.dir / "damaged").glob(f"{path.name}-*")
    assert (away / "precious").is_file() if thing == "folder" else away.is_symlink() or away.is_fifo()


# --- the history


@pytest.mark.parametrize("rest", [b"", None, 1, 2], ids=repr)
def test_the_history_heals_from_the_alias(moved: Registry, rest: bytes | int | None) -> None:
    before, file = moved.alias("production"), history_file(moved)
    lines = file.read_bytes().splitlines(keepends=True)
    if rest is None:
        file.unlink()
    else:
        file.write_bytes(b"".join(lines[:rest]) if isinstance(rest, int) else rest)
    code, line, _ = verify(moved)
    assert code == 4
    assert "generation 4, which the history does not record" in line
    with pytest.raises(RegistryError, match=REMEDY):
        moved.gc()
    moved.repair()
    assert moved.alias("production") == before
    assert moved.faults() == []
    assert [(move.to_version, move.generation) for move in moved.history()][-1] == (2, 4)
    assert promote(moved, 6).generation == 5
    assert moved.rollback(who="test", why="back").version == 2


def test_a_torn_last_line_is_said_and_set_aside(moved: Registry) -> None:
    file, torn = history_file(moved), b'{"time":"2026-01-01T00:00:00+00:00","alias":"produ'
    before = file.read_bytes()
    file.write_bytes(before + torn)
    code, line, _ = verify(moved)
    assert code == 4
    assert "history.jsonl: line 5 is not a move" in line
    promote(moved, 6)
    assert [move.to_version for move in moved.history()] == [1, 2, 3, 2, 6]
    moved.repair()
    assert moved.faults() == []
    assert file.read_bytes().startswith(before)
    assert torn not in file.read_bytes()
    (kept,) = (moved.dir / "damaged").glob("history.jsonl-*")
    assert torn in kept.read_bytes()


def test_a_line_that_may_have_been_a_move_takes_its_generation_with_it(moved: Registry) -> None:
    """Who followed the alias there must see that it has moved."""
    file = history_file(moved)
    file.write_bytes(file.read_bytes()[:-40])
    alias_file(moved).write_bytes(b"")
    moved.repair()
    healed = moved.alias("production")
    assert healed is not None
    assert healed.version == 3
    assert healed.generation > 4


# --- what an alias names


def test_an_alias_of_a_corrupt_version_is_noticed(home: Home) -> None:
    model = home.registry.path(1) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert "names version 1" in cifarctl("registry", "list", *home.options).stderr


# --- versions from elsewhere


def test_a_version_of_other_classes_is_said(home: Home, tmp_path: Path) -> None:
    for name in ("lemur", "okapi"):
        (tmp_path / "pictures" / "train" / name).mkdir(parents=True)
    elsewhere = ["--set=data.source=folder", f"--set=data.dir={tmp_path / 'pictures'}"]
    result = cifarctl("registry", "verify", "--json", f"--set=registry.dir={home.registry.dir}", *elsewhere)
    assert result.exit_code == 4
    rows = json.loads(result.stdout)
    assert "those of the data lemur, okapi" in rows[0]["note"]
    assert "alias production names version 1" in rows[1]["problem"]


def test_a_version_of_another_split_is_said(home: Home) -> None:
    version = republish(home.registry, sha256="c" * 64)
    rows = json.loads(cifarctl("registry", "verify", "--json", *home.options).stdout)
    assert rows[0] == {"version": 1, "problem": None}
    assert rows[1]["version"] == version
    assert rows[1]["problem"] is None
    assert "no validation images of its split" in rows[1]["note"]
    (other,) = json.loads(
        cifarctl("registry", "verify", "1", "--json", "--set=data.split_seed=5", *home.options).stdout
    )
    assert "data.split_seed = 0" in other["note"]


def test_a_copy_under_another_number_or_a_deleted_one_is_said(home: Home) -> None:
    versions = home.registry.dir / "versions"
    shutil.copytree(versions / "000001", versions / "000009")
    republish(home.registry)
    (versions / "000010.deleted").write_text("{}")
    result = cifarctl("registry", "verify", "--json", *home.options)
    assert result.exit_code == 4
    problems = {row["version"]: row["problem"] for row in json.loads(result.stdout)}
    assert "says version 1, not 9" in problems[9]
    assert "000010.deleted says that it was deleted" in problems[10]
    assert problems[1] is None


# --- any damage at all


class Damage(RuleBasedStateMachine):
    """Moves, files cut at any byte, and repairs: what is left of the truth comes back and generations only rise."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.registry = open_registry(Path(self.folder.name))
        for _ in range(3):
            self.registry.publish(draft(), WEIGHTS)
        self.least = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(version=st.integers(1, 3), epoch=st.none() | st.integers(50, 60))
    def promote(self, version: int, epoch: int | None) -> None:
        known = self.told()
        try:
            alias = promote(self.registry, version, epoch=epoch)
        except AliasConflict:  # that epoch is over
            return
        assert alias.version == version
        assert alias.generation >= known
        self.least = alias.generation

    @precondition(lambda self: alias_file(self.registry).exists())
    @rule()
    def take_away(self) -> None:
        self.registry.remove_alias("production", who="test", why="because")
        self.least = self.told()

    @precondition(lambda self: alias_file(self.registry).exists())
    @rule(share=st.floats(0, 1))
    def cut_alias(self, share: float) -> None:
        self.cut(alias_file(self.registry), share)

    @precondition(lambda self: history_file(self.registry).exists())
    @rule(share=st.floats(0, 1))
    def cut_history(self, share: float) -> None:
        self.cut(history_file(self.registry), share)

    @precondition(lambda self: alias_file(self.registry).exists())
    @rule()
    def lose_alias(self) -> None:
        alias_file(self.registry).unlink()
        self.least = self.told()

    @rule()
    def repair(self) -> None:
        lines, said = self.lines(), self.alias()
        self.registry.repair()
        assert not [fault for fault in self.registry.faults() if fault.curable]
        whole = self.lines()
        assert whole[: len(lines)] == lines, "no move is lost"
        if said is not None:
            assert self.alias()["version"] == said["version"]  # type: ignore[index]
        elif lines:
            assert self.alias()["version"] == lines[-1]["to_version"]  # type: ignore[index]
            assert self.alias()["epoch"] == self.epoch(lines)  # type: ignore[index]
        before = contents(self.registry.dir)
        assert self.registry.repair() == []
        assert contents(self.registry.dir) == before

    @invariant()
    def never_back(self) -> None:
        if hasattr(self, "registry") and (said := self.alias()) is not None:
            assert said["generation"] >= self.least

    def cut(self, file: Path, share: float) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: round(share * len(content))])
        self.least = self.told()

    def told(self) -> int:
        """The highest generation that anything complete tells of."""
        return max([line["generation"] for line in self.lines()] + [(self.alias() or {"generation": 0})["generation"]])

    def lines(self) -> list[dict[str, Any]]:
        """The complete lines of the history, as anybody would read them."""
        file, found = history_file(self.registry), []
        for line in file.read_bytes().split(b"\n") if file.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def alias(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(alias_file(self.registry).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found

    def epoch(self, lines: list[dict[str, Any]]) -> int | None:
        return next((line["epoch"] for line in reversed(lines) if line["epoch"] is not None), None)


Damage.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestDamage = Damage.TestCase

# --- which folder


@pytest.mark.parametrize("command", [("show", "1"), ("rollback",), ("list",)], ids=" ".join)
def test_a_relative_folder_is_named_in_full(command: tuple[str, ...], tmp_path: Path) -> None:
    """Each test runs in a folder of its own."""
    result = cifarctl("registry", *command, "--set=registry.dir=models")
    assert result.exit_code == (0 if command == ("list",) else 4)
    assert str(tmp_path / "models") in result.output


def test_the_home_folder_behind_an_option(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = cifarctl("registry", "import", "~/weights.pt", *home.options)
    assert str(tmp_path / "weights.pt") in result.stderr
