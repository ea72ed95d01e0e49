"""Earlier measurements on this machine: small JSON documents in the user's cache folder.

An entry that is absent, damaged or cannot be written is not an error: it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

KEPT = 500  # entries; beyond these the least recently used ones are deleted

_CPU = re.compile(r"(vendor_id|cpu family|model|model name|stepping|flags|CPU \w+|Features)\s*:")


def read(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document that was written under `key`, a JSON-able mapping; None where there is none."""
    path = _path(key)
    try:
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    # The key is compared too: the file may have been cut short, edited or copied.
    if not isinstance(entry, dict) or entry.get("key") != _plain(key) or not isinstance(entry.get("value"), dict):
        return None
    with suppress(OSError):
        path.touch()
    value: dict[str, Any] = entry["value"]
    return value


def write(key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Keep `value`, a JSON-able mapping, under `key`."""
    path = _path(key)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({"key": _plain(key), "value": dict(value)}))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _prune(path.parent)


def processor() -> str:
    """An identifier of this machine's kind of processor, which differs where instructions or speed do."""
    with suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        lines = [line for line in first.splitlines() if _CPU.match(line)]
        return f"{platform.machine()} {hashlib.sha256('|'.join(lines).encode()).hexdigest()[:16]}"
    return f"{platform.machine()} {platform.processor()}"


def _path(key: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:32]
    return Path(platformdirs.user_cache_dir("cifarctl")) / "backends" / f"{name}.json"


def _plain(key: Mapping[str, Any]) -> Any:
    """The key as it comes back from JSON, where tuples are lists."""
    return json.loads(json.dumps(dict(key)))


def _prune(folder: Path) -> None:
    entries = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(folder) if entry.is_file()]
    for _, path in sorted(entries, reverse=True)[KEPT:]:
        Path(path).unlink(missing_ok=True)
