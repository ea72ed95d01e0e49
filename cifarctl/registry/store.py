"""The registry's folder: publish versions, point aliases at them, roll back, clean up.

    versions/000007/{model.safetensors, manifest.json, plots/}   immutable once visible
    versions/000003.deleted                                      tombstone: the number is never used again
    versions/.staging-*, .trash-*                                being written, being deleted: never read
    aliases/production                                           one small file, replaced atomically
    history.jsonl                                                every alias move, written ahead of the move
    validation/                                                  images of splits, see registry.validation
    learner/                                                     of the active learner: checkpoint, epoch, requests
    .lock                                                        held by whoever writes; readers need no lock

Everything that becomes visible does so by one rename of something already synced. This module knows nothing
of torch: listing a registry is quick.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic_core import PydanticSerializationError

from cifarctl.errors import (
    AliasConflict,
    IntegrityError,
    ModelTooLarge,
    RegistryBusy,
    RegistryError,
    Superseded,
    VersionNotFound,
)
from cifarctl.registry.aliases import (
    Alias,
    Mark,
    check_alias_name,
    is_alias_name,
    read_mark,
    read_marks,
    write_mark,
)
from cifarctl.registry.files import (
    STAGING,
    TRASH,
    delete,
    entries,
    make_directory,
    os_errors,
    replace_file,
    size_of,
    staged,
    sync_directory,
    token,
    write_file,
)
from cifarctl.registry.history import Move, append_move, reached, read_moves, rollback_target
from cifarctl.registry.manifest import Draft, Manifest, parse
from cifarctl.registry.retention import kept
from cifarctl.settings import RegistrySettings

MODEL_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
PLOTS = "plots"
LATEST = "latest"
VALIDATION = "validation"
LEARNER = "learner"
EPOCH, IDENTITY = "epoch", "registry-id"

_FOLDER = re.compile(r"[0-9]{6,18}")
_TOMBSTONE = re.compile(r"([0-9]{6,18})\.deleted")
_NUMBER = re.compile(r"v?([0-9]{1,18})")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
STALE_SECONDS = 3600
_MIB = 1 << 20
_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Removed:
    """What a clean-up has removed, or would remove; `version` is None for leftovers that never were one."""

    version: int | None
    path: Path
    reason: str
    bytes: int


class Registry:
    """The versions, aliases and history in one folder, which appears with the first write.

    Every method raises RegistryError when the folder cannot be read or written, and those that write raise
    RegistryBusy when another process keeps the lock for longer than ``registry.lock_timeout``.
    """

    def __init__(self, settings: RegistrySettings, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._versions = settings.dir / "versions"
        self._aliases = settings.dir / "aliases"
        self._history = settings.dir / "history.jsonl"

    @property
    def dir(self) -> Path:
        """The registry's folder."""
        return self._settings.dir

    @property
    def trusted_models(self) -> frozenset[str]:
        """Import paths of people's own architectures whose code may be run."""
        return frozenset(self._settings.trusted)

    def publish(self, draft: Draft, weights: bytes, files: Mapping[str, bytes] = _NO_FILES) -> Manifest:
        """Make a new version of `draft` and the content of its model file; `files` go to ``plots/<name>``.

        The version becomes visible whole or not at all, under a number that was never used before.

        Raises:
            ModelTooLarge: it could not be loaded again.
            RegistryError: it cannot be written, or a file's name is not a plain one.
        """
        limit = self._settings.max_model_mb
        if len(weights) > limit * _MIB:
            raise ModelTooLarge(
                f"registry.max_model_mb = {limit}: the model has {len(weights) / _MIB:.1f} MiB; raise it"
            )
        for name in files:
            if _FILE_NAME.fullmatch(name) is None:
                raise RegistryError(f"file name {name!r}: not allowed; use letters, digits, '.', '_' and '-'")
        digest = hashlib.sha256(weights).hexdigest()
        with self._lock():
            make_directory(self._versions)
            number = self._next_number()
            target = self._versions / _folder(number)
            text = _manifest_text(
                draft, {"version": number, "created": self._now(), "sha256": digest, "bytes": len(weights)}
            )
            manifest = parse(text, target / MANIFEST_FILE)
            with staged(target) as staging:
                write_file(staging / MODEL_FILE, weights)
                write_file(staging / MANIFEST_FILE, text)
                if files:
                    make_directory(staging / PLOTS)
                    for name in files:
                        write_file(staging / PLOTS / name, files[name])
                    sync_directory(staging / PLOTS)
        return manifest

    def numbers(self) -> list[int]:
        """Numbers of the visible versions, ascending; reads no manifest."""
        found = [int(name) for name in entries(self._versions) if _is_folder(name)]
        return sorted(number for number in found if (self._versions / _folder(number)).is_dir())

    def plots(self, version: int) -> list[Path]:
        """Figures and pictures that were published with a version, by name."""
        folder = self.path(version) / PLOTS
        return [folder / name for name in entries(folder)]

    def versions(self) -> list[Manifest]:
        """The manifests of all versions, ascending.

        Raises:
            IntegrityError: a manifest cannot be parsed; the message names the file.
        """
        manifests = []
        for number in self.numbers():
            try:
                manifests.append(self.manifest(number))
            except VersionNotFound:  # cleaned up since it was listed
                continue
        return manifests

    def manifest(self, version: int) -> Manifest:
        """The manifest of one version.

        Raises:
            VersionNotFound: there is no such version.
            IntegrityError: its manifest is missing, cannot be parsed, or is another version's.
        """
        path = self.path(version) / MANIFEST_FILE
        manifest = parse(self._read(version, path, limit=64 * _MIB), path)
        if manifest.version != version:
            raise IntegrityError(f"{path}: says version {manifest.version}, not {version}; use another version")
        return manifest

    def path(self, version: int) -> Path:
        """The folder of one version.

        Raises:
            VersionNotFound: there is no such version.
        """
        path = self._versions / _folder(version)
        if not path.is_dir():
            raise VersionNotFound(f"no version {version} in {self.dir}; there is {self._inventory()}")
        return path

    def resolve(self, reference: str | int) -> int:
        """The number that a reference means: 7, "7", "000007", "v7", an alias, or "latest".

        Raises:
            VersionNotFound: it means no version that exists; the message says what there is.
        """
        text = str(reference).strip()
        number = _NUMBER.fullmatch(text)
        if number is not None:
            version = int(number[1])
        elif text == LATEST:
            version = max(self.numbers(), default=0)
        elif is_alias_name(text) and (alias := self.alias(text)) is not None:
            version = alias.version
        else:
            version = 0
        if version == 0:
            raise VersionNotFound(f"no version or alias {text!r} in {self.dir}; there is {self._inventory()}")
        self.path(version)
        return version

    def alias(self, name: str) -> Alias | None:
        """Where an alias points, or None when nobody has set it, or it was taken away.

        Raises:
            RegistryError: no alias may have that name.
        """
        mark = self._mark(name)
        return mark if isinstance(mark, Alias) else None

    def aliases(self) -> dict[str, Alias]:
        """All aliases by name."""
        return {name: mark for name, mark in read_marks(self._aliases).items() if isinstance(mark, Alias)}

    def promote(
        self,
        version: int | str,
        *,
        alias: str = "production",
        who: str,
        why: str,
        expected_generation: int | None = None,
        epoch: int | None = None,
    ) -> Alias:
        """Point an alias at a version; one that is there already, with no newer epoch, stays as it is.

        Args:
            version: number, or anything that `resolve` takes.
            alias: which alias.
            who: who moves it, for the history.
            why: the reason, for the history.
            expected_generation: the generation that the decision was based on; 0 = the alias did not exist.
            epoch: of the learner that does it; an alias never takes one older than it has.

        Raises:
            VersionNotFound: there is no such version.
            AliasConflict: the alias has another generation, or a newer epoch.
        """
        check_alias_name(alias)
        with self._lock():
            target = self.resolve(version)
            current = self._expect(alias, expected_generation, epoch)
            if isinstance(current, Alias) and current.version == target and epoch in {None, current.epoch}:
                return current
            return self._point("promote", alias, current, target, who, why, epoch)

    def rollback(self, *, alias: str = "production", who: str, why: str) -> Alias:
        """Point an alias one step back through what it pointed at; again, one step further.

        Versions that no longer exist are stepped over.

        Raises:
            RegistryError: there is nothing to go back to.
        """
        check_alias_name(alias)
        with self._lock():
            current = self.alias(alias)
            target = rollback_target(self.history(alias), set(self.numbers()).__contains__)
            if target is None:
                raise RegistryError(
                    f"alias {alias} has nothing to go back to (there is {self._inventory()}); "
                    "`cifarctl registry promote VERSION` takes any version"
                )
            return self._point("rollback", alias, current, target, who, why)

    def remove_alias(self, alias: str, *, who: str, why: str, epoch: int | None = None) -> bool:
        """Take an alias away, so that it names nothing; whether there was one. Its history stays.

        Raises:
            AliasConflict: the alias has a newer epoch.
        """
        check_alias_name(alias)
        with self._lock():
            current = self._expect(alias, None, epoch)
            if isinstance(current, Alias):
                mark = Mark(version=None, **self._next(alias, current, epoch))
                self._move("remove", current, mark, who, why, epoch)
        return isinstance(current, Alias)

    def carry_out(self, move: Move) -> Alias:
        """Do what a learner has decided; where it was done before, as by a learner that has died since, nothing.

        The move's generation is the one that the alias gets by it; a refusal's is the one that it has.

        Raises:
            VersionNotFound: there is no such version.
            AliasConflict: the alias is not there, has another generation, or a newer epoch.
        """
        check_alias_name(move.alias)
        with self._lock():
            current = self.alias(move.alias)
            if current is None:
                raise AliasConflict(f"alias {move.alias} is not set; set it by `cifarctl registry promote`")
            if any(move.same(known) for known in self.history(move.alias)):
                return current
            self._expect(move.alias, move.generation - (move.action != "reject"), move.epoch)
            if move.action == "reject":
                append_move(self._history, move)
                return current
            if move.action == "remove" or move.to_version is None:
                raise RegistryError(f"{move.action} of alias {move.alias}: no decision of a learner")
            version = self.resolve(move.to_version)
            return self._point(move.action, move.alias, current, version, move.who, move.why, move.epoch, move.at)

    def next_epoch(self, after: int = 0) -> int:
        """A number above `after` and above that of every learner so far."""
        return max(after, self._epoch(), *(found.epoch or 0 for found in self.aliases().values()), 0) + 1

    def begin_epoch(self, epoch: int) -> None:
        """Let nothing count any more that a learner of an older epoch writes."""
        with self._lock():
            if epoch > self._epoch():
                replace_file(self.dir / LEARNER / EPOCH, b"%d\n" % epoch)

    def identity(self) -> str:
        """A name that this registry has kept since it was first asked for."""
        path = self.dir / LEARNER / IDENTITY
        with self._lock():
            if not path.exists():
                replace_file(path, token("registry-").encode())
            with os_errors(path):
                return path.read_text()

    @contextmanager
    def in_epoch(self, epoch: int) -> Iterator[None]:
        """Keep others from beginning a newer epoch meanwhile.

        Raises:
            Superseded: a newer one has begun.
        """
        with self._lock():
            if epoch < (newest := self._epoch()):
                raise Superseded(f"another learner has taken over: epoch {epoch} is over, this is epoch {newest}")
            yield

    def _epoch(self) -> int:
        path = self.dir / LEARNER / EPOCH
        with os_errors(path):
            try:
                return int(path.read_bytes())
            except (FileNotFoundError, ValueError):  # none has begun; or it was torn, and the aliases know it still
                return 0

    def history(self, alias: str | None = None) -> list[Move]:
        """The moves that took place and the refusals, oldest first, of one alias or of all."""
        if alias is not None:
            check_alias_name(alias)
        # The aliases are read first: a move that lands in between is then not yet reached, never half seen.
        generations = {name: mark.generation for name, mark in read_marks(self._aliases).items()}
        moves = reached(read_moves(self._history), generations)
        return [move for move in moves if alias in {None, move.alias}]

    def gc(self, *, of: str | None = None, dry_run: bool = False) -> list[Removed]:
        """Remove leftovers of interrupted writers, and versions that nobody needs; see `retention.kept`.

        With `of` an origin, only versions of that. A removed version leaves a tombstone, so that its number is never
        used again.
        """
        if not self.dir.exists():
            return []
        with self._lock():
            removed = self._superfluous(of) if of is not None else [*self._leftovers(), *self._superfluous()]
            if not dry_run:
                for item in removed:
                    self._remove(item)
        return removed

    def verify(self, version: int) -> list[str]:
        """What is wrong with the files of a version, a line each; empty when it is sound. Needs no torch.

        Raises:
            VersionNotFound: there is no such version.
        """
        folder = self.path(version)
        unknown = set(entries(folder)) - {MODEL_FILE, MANIFEST_FILE, PLOTS}
        problems = [f"{folder / name}: does not belong to a version" for name in sorted(unknown)]
        try:
            manifest = self.manifest(version)
        except IntegrityError as error:
            return [*problems, str(error)]
        model = folder / MODEL_FILE
        if not model.is_file():
            return [*problems, f"{model}: missing"]
        with os_errors(model), model.open("rb") as file:
            digest = hashlib.sha256()
            size = 0
            while block := file.read(_MIB):
                digest.update(block)
                size += len(block)
        if size != manifest.bytes:
            problems.append(f"{model}: {size} bytes, the manifest says {manifest.bytes}")
        if digest.hexdigest() != manifest.sha256:
            problems.append(f"{model}: sha256 {digest.hexdigest()}, the manifest says {manifest.sha256}")
        return problems

    def read_weights(self, version: int) -> tuple[Manifest, bytes]:
        """The manifest and the content of the model file, read once and compared with the manifest's sha256.

        Raises:
            VersionNotFound: there is no such version.
            IntegrityError: a file is missing, too large, or is not what was published.
        """
        manifest = self.manifest(version)
        path = self.path(version) / MODEL_FILE
        weights = self._read(version, path, limit=self._settings.max_model_mb * _MIB)
        actual = hashlib.sha256(weights).hexdigest()
        if actual != manifest.sha256:
            raise IntegrityError(
                f"version {version}: {path} has sha256 {actual} ({len(weights)} bytes), its manifest expects "
                f"{manifest.sha256} ({manifest.bytes} bytes); use another version"
            )
        return manifest, weights

    @contextmanager
    def _lock(self) -> Iterator[None]:
        make_directory(self.dir)
        lock = FileLock(self.dir / ".lock")
        try:
            with os_errors(self.dir / ".lock"):
                lock.acquire(timeout=self._settings.lock_timeout)
        except RegistryError as error:
            if isinstance(error.__cause__, Timeout):
                raise RegistryBusy(
                    f"{self.dir}: another process has kept the lock for {self._settings.lock_timeout:g} s; "
                    "try again, or raise registry.lock_timeout"
                ) from None
            raise
        try:
            yield
        finally:
            lock.release()

    def _now(self) -> str:
        return self._clock().astimezone(timezone.utc).isoformat(timespec="milliseconds")

    def _inventory(self) -> str:
        numbers = self.numbers()
        if not numbers:
            return "none yet: `cifarctl train` makes one"
        shown = ", ".join(str(number) for number in numbers[-10:])
        aliases = "".join(f", {name} = {alias.version}" for name, alias in self.aliases().items())
        return f"{'... ' if len(numbers) > 10 else ''}{shown}{aliases}"

    def _next_number(self) -> int:
        names = entries(self._versions)
        used = [int(name) for name in names if _is_folder(name)]
        used += [int(match[1]) for match in map(_TOMBSTONE.fullmatch, names) if match]
        used += [number for name in names if (number := _trashed(name)) is not None]
        for move in read_moves(self._history):
            used += [move.to_version or 0, move.from_version or 0]
        return max(used, default=0) + 1

    def _read(self, version: int, path: Path, limit: int) -> bytes:
        with os_errors(path):
            try:
                with path.open("rb") as file:
                    content = file.read(limit + 1) if path.stat().st_size <= limit else None
            except FileNotFoundError:
                self.path(version)  # tells a version that was cleaned up meanwhile from a damaged one
                raise IntegrityError(f"version {version}: {path} is missing; use another version") from None
        if content is None or len(content) > limit:
            raise IntegrityError(
                f"version {version}: {path} is larger than {limit // _MIB} MiB; "
                "raise registry.max_model_mb if it should be"
            )
        return content

    def _mark(self, name: str) -> Mark | None:
        check_alias_name(name)
        return read_mark(self._aliases / name)

    def _expect(self, name: str, generation: int | None, epoch: int | None = None) -> Mark | None:
        """The alias as it is, if it is as the caller believes."""
        current = self._mark(name)
        actual = current.generation if isinstance(current, Alias) else 0
        if generation is not None and generation != actual:
            where = f"names version {current.version}" if isinstance(current, Alias) else "is not set"
            raise AliasConflict(
                f"alias {name} {where} at generation {actual}, not {generation}: somebody moved it first; "
                "see `cifarctl registry history` and decide again"
            )
        if epoch is not None and current is not None and epoch < (current.epoch or 0):
            raise AliasConflict(
                f"alias {name} was moved in epoch {current.epoch}, epoch {epoch} is over: "
                "another learner has taken over, stop this one"
            )
        return current

    def _next(self, name: str, current: Mark | None, epoch: int | None) -> dict[str, Any]:
        """What the mark after `current` says, but for the version."""
        return {
            "name": name,
            "generation": 1 if current is None else current.generation + 1,
            "moved": self._now(),
            "epoch": current.epoch if current is not None and epoch is None else epoch,
        }

    def _point(
        self,
        action: Literal["promote", "rollback"],
        name: str,
        current: Mark | None,
        version: int,
        who: str,
        why: str,
        epoch: int | None = None,
        at: int | None = None,
    ) -> Alias:
        alias = Alias(version=version, **self._next(name, current, epoch))
        self._move(action, current, alias, who, why, epoch, at)
        return alias

    def _move(
        self,
        action: Literal["promote", "rollback", "remove"],
        before: Mark | None,
        after: Mark,
        who: str,
        why: str,
        epoch: int | None = None,
        at: int | None = None,
    ) -> None:
        move = Move(
            time=after.moved,
            alias=after.name,
            action=action,
            from_version=None if before is None else before.version,
            to_version=after.version,
            who=who,
            why=why,
            generation=after.generation,
            epoch=epoch,
            at=at,
        )
        append_move(self._history, move)
        write_mark(self._aliases, after)

    def _leftovers(self) -> list[Removed]:
        """What interrupted writers left; under the lock nobody is at work on any of it."""
        found = []
        for folder in (self._versions, self._aliases):
            for name in entries(folder):
                path = folder / name
                if name.startswith((STAGING, TRASH)):
                    with os_errors(path):
                        reason = "interrupted write" if name.startswith(STAGING) else "interrupted removal"
                        found.append(Removed(_trashed(name), path, reason, size_of(path)))
        # The learner and trainers write their files there without the lock: only age tells what is dead.
        for folder in (self.dir / LEARNER, self.dir / "training", self.dir / VALIDATION):
            for name in entries(folder):
                path = folder / name
                with os_errors(path):
                    if name.startswith(STAGING) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                        found.append(Removed(None, path, "interrupted write", size_of(path)))
        return found

    def _superfluous(self, origin: str | None = None) -> list[Removed]:
        numbers = self.numbers()
        try:
            since = self._clock() - timedelta(hours=self._settings.keep_hours)
        except OverflowError:  # so many hours that they mean for ever
            since = datetime.min.replace(tzinfo=timezone.utc)
        origins, bases = {}, {}
        for number in numbers:
            with suppress(IntegrityError):  # of which nobody knows
                manifest = self.manifest(number)
                origins[number] = manifest.origin
                if (base := manifest.metrics.get("base")) is not None:
                    bases[number] = int(base)
        keep = kept(numbers, self.aliases(), self.history(), bases=bases, newest=self._settings.keep, since=since)
        found = []
        for number in numbers:
            if number not in keep and origin in {None, origins.get(number)}:
                path = self._versions / _folder(number)
                with os_errors(path):
                    reason = f"not among the newest {self._settings.keep}, not named by an alias of late"
                    found.append(Removed(number, path, reason, size_of(path)))
        return found if origin is not None else found + self._unused_images(keep)

    def _unused_images(self, versions: set[int]) -> list[Removed]:
        """Validation images of splits that none of `versions` has."""
        files = [
            self.dir / VALIDATION / name for name in entries(self.dir / VALIDATION) if not name.startswith(STAGING)
        ]
        try:
            splits = {self.manifest(version).split.sha256 for version in versions} if files else set()
        except IntegrityError:  # whose split that version has, nobody knows
            return []
        found = []
        for path in files:
            if path.stem not in splits:
                with os_errors(path):
                    found.append(Removed(None, path, "no version has its split", size_of(path)))
        return found

    def _remove(self, item: Removed) -> None:
        with os_errors(item.path):
            path = item.path
            if item.version is not None:
                if not path.name.startswith(TRASH):  # the rename makes the version vanish at once
                    path = path.rename(path.with_name(token(f"{TRASH}{path.name}-")))
                    sync_directory(path.parent)
                # Until the tombstone is written, the trash folder's name tells that the number is used.
                self._write_tombstone(item.version, path)
            delete(path)

    def _write_tombstone(self, version: int, trash: Path) -> None:
        tombstone = self._versions / f"{_folder(version)}.deleted"
        if tombstone.exists():
            return
        try:
            digest = parse((trash / MANIFEST_FILE).read_bytes(), trash / MANIFEST_FILE).sha256
        except (FileNotFoundError, IntegrityError):
            digest = None
        record = {"version": version, "sha256": digest, "deleted": self._now()}
        replace_file(tombstone, json.dumps(record).encode() + b"\n")


def _folder(version: int) -> str:
    return f"{version:06d}"


def _is_folder(name: str) -> bool:
    return _FOLDER.fullmatch(name) is not None and name == _folder(int(name))


def _trashed(name: str) -> int | None:
    """The version in the name of a trash folder."""
    number = name.removeprefix(TRASH).partition("-")[0] if name.startswith(TRASH) else ""
    return int(number) if _FOLDER.fullmatch(number) else None


def _manifest_text(draft: Draft, facts: dict[str, Any]) -> bytes:
    try:
        content = draft.model_dump(mode="json") | facts
        return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
    except (PydanticSerializationError, TypeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise RegistryError(f"the manifest cannot be written as JSON ({cause}); change its settings") from None
