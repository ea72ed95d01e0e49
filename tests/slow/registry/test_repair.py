"""What an alias names, damaged in every way."""

from __future__ import annotations

import json
import shutil
from typing import Any

from helpers import Home, cifarctl, republish

from cifarctl.registry import Alias, Registry


def promote(registry: Registry, version: int, **values: Any) -> Alias:
    return registry.promote(version, **({"who": "test", "why": "because"} | values))


def test_a_dangling_alias_is_noticed(home: Home) -> None:
    version = republish(home.registry)
    promote(home.registry, version)
    shutil.rmtree(home.registry.path(version))
    listed = cifarctl("registry", "list", *home.options)
    assert listed.exit_code == 0
    assert f"names version {version}" in listed.stderr
    assert "cifarctl registry rollback --alias production" in " ".join(listed.stderr.split())
    verified = cifarctl("registry", "verify", *home.options)
    assert verified.exit_code == 4
    assert f"names version {version}" in verified.stderr
    examined = cifarctl("doctor", "--json", "--set=kafka.bootstrap_servers=127.0.0.1:1", *home.options)
    check = next(check for check in json.loads(examined.stdout) if check["check"] == "registry")
    assert not check["ok"]
    assert f"names version {version}" in check["finding"]
    assert home.registry.rollback(who="test", why="dangling").version == 1
    assert home.registry.faults() == []
