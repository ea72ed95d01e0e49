"""What a host remembers of its backends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cifarctl.serving import host_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


def test_the_cache_remembers(cache: Path) -> None:
    key = {"what": "test", "list": (1, 2)}
    assert host_cache.read(key) is None
    host_cache.write(key, {"speed": 2.5})
    assert host_cache.read(key) == {"speed": 2.5}
    assert host_cache.read(key | {"what": "other"}) is None
    host_cache.write(key, {"speed": 3})
    assert host_cache.read(key) == {"speed": 3}
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[1]", b"\xff\xfe", b'{"key": {"a": 2}, "value": {}}', b'{"key": {"a": 1}}']
)
def test_a_damaged_entry_is_none(content: bytes, cache: Path) -> None:
    host_cache.write({"a": 1}, {})
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert host_cache.read({"a": 1}) is None
    host_cache.write({"a": 1}, {"b": 2})
    assert host_cache.read({"a": 1}) == {"b": 2}


def test_a_cache_that_cannot_be_written_is_none(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    host_cache.write({"a": 1}, {"b": 2})
    assert host_cache.read({"a": 1}) is None


def test_the_longest_unused_entries_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cache, "KEPT", 3)
    for number in range(3):
        host_cache.write({"a": number}, {"b": number})
    for age, path in enumerate(cache.iterdir(), start=1):
        a = json.loads(path.read_bytes())["key"]["a"]
        os.utime(path, (1000.0 * a, 1000.0 * a))
        assert age <= 3
    assert host_cache.read({"a": 0}) == {"b": 0}  # used again
    host_cache.write({"a": 3}, {"b": 3})
    assert [host_cache.read({"a": number}) is not None for number in range(4)] == [True, False, True, True]
