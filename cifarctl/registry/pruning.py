"""Pruning: cleans up a registry so that a crash at any point loses nothing that counts.

`retention` decides which versions stay. The caller holds the registry's lock.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cifarctl.errors import IntegrityError
from cifarctl.registry.claims import deserted
from cifarctl.registry.files import (
    STAGING,
    TRASH,
    delete,
    entries,
    os_errors,
    replace_file,
    size_of,
    sync_directory,
    token,
)
from cifarctl.registry.layout import (
    LEARNER,
    MANIFEST_FILE,
    TRAINING,
    VALIDATION,
    VERSIONS,
    folder_name,
    tombstone_name,
    version_of_trash,
)
from cifarctl.registry.manifest import parse
from cifarctl.registry.pointers import Pointers
from cifarctl.registry.retention import kept
from cifarctl.registry.versions import Versions
from cifarctl.settings import RegistrySettings

#: Seconds after which a file that is written without the lock counts as left by a dead writer: no write takes an hour.
STALE_SECONDS = 3600


@dataclass(frozen=True)
class Removed:
    """An item that a clean-up has removed, or would remove; `version` is None for leftovers that never were one."""

    version: int | None
    path: Path
    reason: str
    bytes: int


def leftovers(registry: Path, aliases: Path) -> list[Removed]:
    """Leftovers of interrupted writers; `aliases` is the folder of the alias files.

    Raises:
        RegistryError: a folder cannot be read.
    """
    found = []
    for folder in (registry / VERSIONS, aliases):
        for name in entries(folder):
            path = folder / name
            if name.startswith((STAGING, TRASH)):
                with os_errors(path):
                    reason = "interrupted write" if name.startswith(STAGING) else "interrupted removal"
                    found.append(Removed(version_of_trash(name), path, reason, size_of(path)))
    # The learner and trainers write there without the lock, so a file's age is the only sign that its writer is dead.
    for folder in (registry / LEARNER, registry / TRAINING, registry / VALIDATION):
        for name in entries(folder):
            path = folder / name
            with os_errors(path):
                if name.startswith(STAGING) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    found.append(Removed(None, path, "interrupted write", size_of(path)))
    return found


def cutoff(now: datetime, keep_hours: float) -> datetime:
    """The time since when things count as recent."""
    try:
        return now - timedelta(hours=keep_hours)
    except OverflowError:  # more hours than there are dates: everything is recent
        return datetime.min.replace(tzinfo=timezone.utc)


def deserted_checkpoints(registry: Path, since: datetime) -> list[Removed]:
    """Checkpoints, not written `since`, of learners of streams whose alias another stream's learner moves now.

    Raises:
        RegistryError: the folder cannot be read.
    """
    found = []
    for path in deserted(registry / LEARNER):
        with os_errors(path):
            written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            if written < since:
                found.append(Removed(None, path, "another stream's learner moves its alias", size_of(path)))
    return found


def superfluous(
    versions: Versions, pointers: Pointers, settings: RegistrySettings, since: datetime, origin: str | None = None
) -> list[Removed]:
    """Versions that nobody needs, see `retention.kept`, and validation images of splits that no kept version has.

    With an `origin`, only versions of that origin and no images.

    Raises:
        RegistryError: the registry cannot be read.
    """
    numbers = versions.numbers()
    origins, bases = {}, {}
    for number in numbers:
        with suppress(IntegrityError):  # its origin and base are unknown
            manifest = versions.manifest(number)
            origins[number] = manifest.origin
            if (base := manifest.metrics.get("base")) is not None:
                bases[number] = int(base)
    keep = kept(numbers, pointers.aliases(), pointers.moves(), bases=bases, newest=settings.keep, since=since)
    found = []
    for number in numbers:
        if number not in keep and origin in {None, origins.get(number)}:
            path = versions.dir / VERSIONS / folder_name(number)
            with os_errors(path):
                reason = f"not among the newest {settings.keep}, not named by an alias recently"
                found.append(Removed(number, path, reason, size_of(path)))
    return found if origin is not None else found + _unused_images(versions, keep)


def _unused_images(versions: Versions, keep: set[int]) -> list[Removed]:
    """Validation images of splits that none of the versions to `keep` has."""
    folder = versions.dir / VALIDATION
    files = [folder / name for name in entries(folder) if not name.startswith(STAGING)]
    try:
        splits = {versions.manifest(version).split.sha256 for version in keep} if files else set()
    except IntegrityError:  # the split of that version is unknown, so its images may be any of these
        return []
    found = []
    for path in files:
        if path.stem not in splits:
            with os_errors(path):
                found.append(Removed(None, path, "no version has its split", size_of(path)))
    return found


def remove(item: Removed, now: str) -> None:
    """Remove an item; a version vanishes at once and leaves a tombstone with the time `now`.

    Raises:
        RegistryError: it cannot be removed.
    """
    with os_errors(item.path):
        path = item.path
        if item.version is not None:
            if not path.name.startswith(TRASH):  # the rename makes the version vanish at once
                path = path.rename(path.with_name(token(f"{TRASH}{path.name}-")))
                sync_directory(path.parent)
            # Until the tombstone is written, the name of the trash folder marks the number as used.
            _write_tombstone(item.version, path, now)
        delete(path)


def _write_tombstone(version: int, trash: Path, now: str) -> None:
    tombstone = trash.parent / tombstone_name(version)
    if tombstone.exists():
        return
    try:
        digest = parse((trash / MANIFEST_FILE).read_bytes(), trash / MANIFEST_FILE).sha256
    except (FileNotFoundError, IntegrityError):
        digest = None
    record = {"version": version, "sha256": digest, "deleted": now}
    replace_file(tombstone, json.dumps(record).encode() + b"\n")
