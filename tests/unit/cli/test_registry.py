"""The registry's commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import document, fails, flip, one_line
from helpers import Home, cifarctl, republish


def test_the_registry_is_listed(home: Home) -> None:
    republish(home.registry)
    (first, second) = document("registry", "list", *home.options)
    assert list(first) == ["version", "created", "model", "parent", "metrics", "aliases"]
    assert (first["version"], first["parent"], first["aliases"]) == (1, None, ["production"])
    assert (second["version"], second["parent"], second["aliases"]) == (2, 1, [])
    assert first["metrics"]["test_accuracy"] == home.registry.manifest(1).metrics["test_accuracy"]
    text = cifarctl("registry", "list", *home.options).stdout
    assert "production" in text
    assert "validation" in text


def test_an_empty_registry_is_listed(tmp_path: Path) -> None:
    options = [f"--set=registry.dir={tmp_path / 'registry'}"]
    assert document("registry", "list", *options) == []
    assert document("registry", "history", *options) == []
    assert document("registry", "gc", *options) == []
    assert document("registry", "verify", *options) == []
    assert "cifarctl train" in cifarctl("registry", "list", *options).stdout
    assert not (tmp_path / "registry").exists()


def test_a_version_is_shown(home: Home) -> None:
    plots = {"plots": [str(path) for path in home.registry.plots(1)]}
    shown = document("registry", "show", "production", *home.options)
    assert shown == home.registry.manifest(1).model_dump(mode="json") | plots
    text = cifarctl("registry", "show", "1", *home.options).stdout
    assert home.registry.manifest(1).sha256[:20] in text


def test_aliases_are_moved_and_the_history_tells(home: Home) -> None:
    republish(home.registry)
    republish(home.registry)
    moved = document("registry", "promote", "2", "--why", "better", *home.options)
    assert moved == {"alias": "production", "version": 2, "generation": 2}
    assert document("registry", "promote", "latest", *home.options)["version"] == 3
    assert document("registry", "promote", "3", "--alias", "canary", *home.options)["alias"] == "canary"
    assert document("registry", "rollback", "--why", "worse", *home.options) == {
        "alias": "production", "version": 2, "generation": 4,
    }  # fmt: skip
    assert document("registry", "rollback", *home.options)["version"] == 1
    assert "nothing to go back to" in fails(4, "registry", "rollback", "--json", *home.options)
    found = document("registry", "history", "--alias", "production", *home.options)
    assert [(move["action"], move["to_version"], move["who"], move["why"]) for move in found] == [
        ("promote", 1, "train", "there was no production version"),
        ("promote", 2, "cli", "better"),
        ("promote", 3, "cli", "by hand"),
        ("rollback", 2, "cli", "worse"),
        ("rollback", 1, "cli", "by hand"),
    ]
    assert len(document("registry", "history", *home.options)) == 6
    removed = [document("registry", "remove-alias", "canary", "--why", "over", *home.options) for _ in range(2)]
    assert removed == [{"alias": "canary", "removed": True}, {"alias": "canary", "removed": False}]
    text = cifarctl("registry", "history", *home.options)
    assert text.exit_code == 0
    assert re.search(r"canary +– → 3 +cli +by hand", text.stdout)
    assert re.search(r"canary +3 → – +cli +over", text.stdout)


def test_a_damaged_version_is_not_promoted(home: Home) -> None:
    republish(home.registry)
    flip(home, 2)
    fails(4, "registry", "promote", "2", "--json", *home.options)
    assert home.registry.resolve("production") == 1


def test_an_alias_with_an_impossible_name(home: Home) -> None:
    assert "not allowed" in fails(4, "registry", "promote", "1", "--alias", "../x", "--json", *home.options)


def test_old_versions_are_collected(home: Home) -> None:
    for _ in range(3):
        republish(home.registry)
    options = [*home.options, "--set=registry.keep=1", "--set=registry.keep_hours=0"]
    planned = document("registry", "gc", "--dry-run", *options)
    assert [(row["version"], row["bytes"] > 0) for row in planned] == [(2, True), (3, True)]
    assert home.registry.numbers() == [1, 2, 3, 4]
    assert document("registry", "gc", *options) == planned
    assert home.registry.numbers() == [1, 4]
    assert document("registry", "gc", *options) == []
    assert "nothing to remove" in cifarctl("registry", "gc", *options).stdout


def test_versions_are_verified(home: Home) -> None:
    republish(home.registry)
    assert document("registry", "verify", *home.options) == [
        {"version": 1, "problem": None},
        {"version": 2, "problem": None},
    ]
    flip(home, 2)
    result = cifarctl("registry", "verify", "--json", *home.options)
    found = json.loads(result.stdout)
    assert found[0] == {"version": 1, "problem": None}
    assert "sha256" in found[1]["problem"]
    one_line(result, 4, stdout=True)
    assert document("registry", "verify", "production", *home.options) == [{"version": 1, "problem": None}]
