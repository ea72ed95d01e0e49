"""A registry of drafts with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from helpers import draft

from cifarctl.registry import Alias, Registry
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


def publish(registry: Registry, count: int = 1) -> list[int]:
    return [registry.publish(draft(), b"weights").version for _ in range(count)]


def promote(registry: Registry, version: int | str, **values: Any) -> Alias:
    return registry.promote(version, who="test", why="because", **values)


def rollback(registry: Registry, **values: Any) -> Alias:
    return registry.rollback(who="test", why="worse", **values)


def remove(registry: Registry, alias: str = "production") -> bool:
    return registry.remove_alias(alias, who="test", why="over")
