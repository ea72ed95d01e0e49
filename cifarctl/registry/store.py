"""The registry's folder: publish versions, point aliases at them, roll back, clean up.

    versions/000007/{model.safetensors, manifest.json, plots/}   immutable once visible
    versions/000003.deleted                                      tombstone: the number is never used again
    versions/.staging-*, .trash-*                                being written, being deleted: never read
    aliases/production                                           one small file, replaced atomically
    history.jsonl                                                every alias move, written ahead of the move
    damaged/                                                     files as they were before they were repaired
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
from typing import Any

from filelock import FileLock, Timeout
from pydantic_core import PydanticSerializationError

from cifarctl.errors import (
    AliasConflict,
    AliasDamaged,
    IntegrityError,
    ModelTooLarge,
    RegistryBusy,
    RegistryError,
    Superseded,
    VersionNotFound,
)
from cifarctl.registry.aliases import Alias, canary_of, check_alias_name, is_alias_name
from cifarctl.registry.claims import deserted
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
from cifarctl.registry.history import Move, rollback_target
from cifarctl.registry.manifest import Draft, Manifest, parse
from cifarctl.registry.pointers import Pointers
from cifarctl.registry.repair import Fault
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

    Example:
        >>> from cifarctl import Registry, Settings
        >>> registry = Registry(Settings().registry)
        >>> registry.numbers()
        [1]
        >>> registry.resolve("production")
        1
        >>> sorted(registry.manifest(1).metrics)
        ['test_accuracy', 'test_loss', 'validation_accuracy']
    """

    def __init__(self, settings: RegistrySettings, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._dir = settings.dir.absolute()  # so that every error names the folder that was looked in
        self._versions = self.dir / "versions"
        self._pointers = Pointers(self.dir, clock)

    @property
    def dir(self) -> Path:
        """The registry's folder, from the root."""
        return self._dir

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
                draft, {"version": number, "created": self._pointers.now(), "sha256": digest, "bytes": len(weights)}
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
            AliasDamaged: its file does not tell, though it was set.
            RegistryError: no alias may have that name.
        """
        return self._pointers.alias(name)

    def aliases(self) -> dict[str, Alias]:
        """All aliases by name; those whose files do not tell are among the `faults`."""
        return self._pointers.aliases()

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
            current = self._pointers.expect(alias, expected_generation, epoch)
            if isinstance(current, Alias) and current.version == target and epoch in {None, current.epoch}:
                return current
            return self._pointers.point("promote", alias, current, target, who, why, epoch)

    def rollback(self, *, alias: str = "production", who: str, why: str) -> Alias:
        """Point an alias one step back through what it pointed at; again, one step further.

        Versions that no longer exist are stepped over.

        Raises:
            RegistryError: there is nothing to go back to.
        """
        check_alias_name(alias)
        with self._lock():
            current = self._pointers.expect(alias, None)
            target = rollback_target(self.history(alias), set(self.numbers()).__contains__)
            if target is None:
                raise RegistryError(
                    f"alias {alias} has nothing to go back to in {self.dir} (there is {self._inventory()}); "
                    "`cifarctl registry promote VERSION` takes any version"
                )
            return self._pointers.point("rollback", alias, current, target, who, why)

    def remove_alias(self, alias: str, *, who: str, why: str, epoch: int | None = None) -> bool:
        """Take an alias away, so that it names nothing; whether there was one. Its history stays.

        Raises:
            AliasConflict: the alias has a newer epoch.
        """
        check_alias_name(alias)
        with self._lock():
            current = self._pointers.expect(alias, None, epoch)
            if isinstance(current, Alias):
                self._pointers.move("remove", alias, current, None, who, why, epoch)
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
            current = self._pointers.expect(move.alias, None)
            if not isinstance(current, Alias):
                raise AliasConflict(f"alias {move.alias} is not set; set it by `cifarctl registry promote`")
            if any(move.same(known) for known in self.history(move.alias)):
                return current
            self._pointers.expect(move.alias, move.generation - (move.action != "reject"), move.epoch)
            if move.action == "reject":
                self._pointers.note(move)
                return current
            if move.action == "remove" or move.to_version is None:
                raise RegistryError(f"{move.action} of alias {move.alias}: no decision of a learner")
            version = self.resolve(move.to_version)
            return self._pointers.point(
                move.action, move.alias, current, version, move.who, move.why, move.epoch, move.at
            )

    def next_epoch(self, after: int = 0, *, alias: str = "production") -> int:
        """A number above `after` and above that of every learner of the alias so far."""
        return max(after, self._epoch(alias), self._pointers.epoch({alias, canary_of(alias)})) + 1

    def begin_epoch(self, epoch: int, *, alias: str = "production") -> None:
        """Let nothing count any more that a learner of the alias of an older epoch writes."""
        with self._lock():
            if epoch > self._epoch(alias):
                replace_file(self.dir / LEARNER / f"{EPOCH}-{alias}", b"%d\n" % epoch)

    def identity(self) -> str:
        """A name that this registry has kept since it was first asked for."""
        path = self.dir / LEARNER / IDENTITY
        with self._lock():
            if not path.exists():
                replace_file(path, token("registry-").encode())
            with os_errors(path):
                return path.read_text()

    @contextmanager
    def in_epoch(self, epoch: int, *, alias: str = "production") -> Iterator[None]:
        """Keep others from beginning a newer epoch of the alias meanwhile.

        Raises:
            Superseded: a newer one has begun.
        """
        with self._lock():
            if epoch < (newest := self._epoch(alias)):
                raise Superseded(f"another learner has taken over: epoch {epoch} is over, this is epoch {newest}")
            yield

    def _epoch(self, alias: str) -> int:
        """That of the alias's learner, or the one that all aliases had in common before each had its own."""
        return max(self._epoch_in(self.dir / LEARNER / name) for name in (f"{EPOCH}-{alias}", EPOCH))

    def _epoch_in(self, path: Path) -> int:
        with os_errors(path):
            try:
                return int(path.read_bytes())
            except (FileNotFoundError, ValueError):  # none has begun; or it was torn, and the aliases know it still
                return 0

    def history(self, alias: str | None = None) -> list[Move]:
        """The moves that took place and the refusals, oldest first, of one alias or of all."""
        if alias is not None:
            check_alias_name(alias)
        return [move for move in self._pointers.moves() if alias in {None, move.alias}]

    def gc(self, *, of: str | None = None, dry_run: bool = False) -> list[Removed]:
        """Remove leftovers of interrupted writers, checkpoints of streams that have given up their alias to another one
        for ``registry.keep_hours``, and versions that nobody needs; see `retention.kept`.

        With `of` an origin, only versions of that. A removed version leaves a tombstone, so that its number is never
        used again. While it is not known what an alias names, or has named, nothing is removed.

        Raises:
            AliasDamaged: an alias and the history do not tell that; with `of`, nothing is raised.
        """
        if not self.dir.exists():
            return []
        with self._lock():
            if doubts := self._pointers.doubts(locked=True):
                if of is not None:
                    return []
                raise AliasDamaged(f"{'; '.join(map(str, doubts))}; until then gc removes nothing")
            if of is not None:
                removed = self._superfluous(of)
            else:
                removed = [*self._leftovers(), *self._deserted(), *self._superfluous()]
            if not dry_run:
                for item in removed:
                    self._remove(item)
        return removed

    def faults(self) -> list[Fault]:
        """What is wrong with aliases and history; reads what aliases name, but needs no torch."""
        return self._pointers.doubts() + self._pointers.torn() + self._dangling()

    def repair(self) -> list[Fault]:
        """Make aliases and history agree again, each rebuilt from the other; what was wrong and no longer is.

        What it replaces is kept in the folder ``damaged``. Doing it twice does nothing more.
        """
        if not self.dir.exists():
            return []
        with self._lock():
            before = self._pointers.doubts(locked=True) + self._pointers.torn()
            self._pointers.repair()
            left = self._pointers.doubts(locked=True) + self._pointers.torn()
        return [fault for fault in before if fault not in left]

    def verify(self, version: int) -> list[str]:
        """What is wrong with the files of a version, a line each; empty when it is sound. Needs no torch.

        Raises:
            VersionNotFound: there is no such version.
        """
        folder = self.path(version)
        unknown = set(entries(folder)) - {MODEL_FILE, MANIFEST_FILE, PLOTS}
        problems = [f"{folder / name}: does not belong to a version" for name in sorted(unknown)]
        if (tombstone := self._versions / f"{_folder(version)}.deleted").exists():
            problems.append(f"{folder}: {tombstone.name} says that it was deleted, so it came from elsewhere")
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
        return max((*used, *self._pointers.mentioned()), default=0) + 1

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

    def _dangling(self) -> list[Fault]:
        """Aliases that name a version that is not there, or whose files are not what was published."""
        found = []
        for name, alias in self.aliases().items():
            try:
                problems = self.verify(alias.version)
            except VersionNotFound:
                problems = [f"there is none; there is {self._inventory()}"]
            if problems:
                problem = f"names version {alias.version}: {'; '.join(problems)}"
                remedy = f"`cifarctl registry rollback --alias {name}` goes back to what it named before"
                found.append(Fault(self._pointers.folder / name, problem, remedy, curable=False))
        return found

    def _leftovers(self) -> list[Removed]:
        """What interrupted writers left; under the lock nobody is at work on any of it."""
        found = []
        for folder in (self._versions, self._pointers.folder):
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

    def _since(self) -> datetime:
        """What is younger is kept."""
        try:
            return self._clock() - timedelta(hours=self._settings.keep_hours)
        except OverflowError:  # so many hours that they mean for ever
            return datetime.min.replace(tzinfo=timezone.utc)

    def _deserted(self) -> list[Removed]:
        """Learners' states of streams of which none has been at work recently, another one having its alias."""
        found = []
        for path in deserted(self.dir / LEARNER):
            with os_errors(path):
                written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
                if written < self._since():
                    found.append(Removed(None, path, "another stream's learner moves its alias", size_of(path)))
        return found

    def _superfluous(self, origin: str | None = None) -> list[Removed]:
        numbers, since = self.numbers(), self._since()
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
                    reason = f"not among the newest {self._settings.keep}, not named by an alias recently"
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
        record = {"version": version, "sha256": digest, "deleted": self._pointers.now()}
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
