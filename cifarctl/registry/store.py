"""The registry: publish versions, point aliases at them, roll back, clean up.

`layout` shows the folder, `versions` reads and writes version folders, `pointers` keeps the aliases and their history,
`pruning` finds and removes what nobody needs. This module puts every write under the registry's lock. It knows nothing
of torch: listing a registry is quick.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from types import MappingProxyType

from cifarctl.errors import (
    AliasConflict,
    AliasDamaged,
    RegistryError,
    Superseded,
    VersionNotFound,
)
from cifarctl.registry import pruning
from cifarctl.registry.aliases import Alias, canary_of, check_alias_name, is_alias_name
from cifarctl.registry.epochs import Epochs
from cifarctl.registry.files import os_errors, replace_file, token
from cifarctl.registry.history import Move, rollback_target
from cifarctl.registry.layout import LEARNER
from cifarctl.registry.locking import locked
from cifarctl.registry.manifest import Draft, Manifest
from cifarctl.registry.pointers import Pointers
from cifarctl.registry.pruning import Removed
from cifarctl.registry.repair import Fault
from cifarctl.registry.versions import Versions, next_number, require_publishable, write_version
from cifarctl.settings import RegistrySettings

LATEST = "latest"
IDENTITY = "registry-id"

_NUMBER = re.compile(r"v?([0-9]{1,18})")
_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(timezone.utc)


class Registry(Versions):
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
        super().__init__(settings.dir, Pointers(settings.dir.absolute(), clock), settings.max_model_mb)
        self._settings = settings
        self._clock = clock
        self._epochs = Epochs(self.dir)

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
        require_publishable(weights, files, self._settings.max_model_mb)
        digest = hashlib.sha256(weights).hexdigest()  # takes a moment, which nobody need wait for at the lock
        with self._lock():
            number = next_number(self._versions, self._pointers.mentioned())
            return write_version(self._versions, number, self._pointers.now(), draft, weights, digest, files)

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

    # --- aliases and their history

    def alias(self, name: str) -> Alias | None:
        """Where an alias points; None when it was never set, or was removed.

        Raises:
            AliasDamaged: the alias was set, but its file is missing or damaged.
            RegistryError: no alias may have that name.
        """
        return self._pointers.alias(name)

    def aliases(self) -> dict[str, Alias]:
        """All aliases by name; those whose files are damaged are among the `faults`."""
        return self._pointers.aliases()

    def history(self, alias: str | None = None) -> list[Move]:
        """The moves that took place and the refusals, oldest first, of one alias or of all."""
        if alias is not None:
            check_alias_name(alias)
        return [move for move in self._pointers.moves() if alias in {None, move.alias}]

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
            epoch: epoch of the learner that moves it; an alias never takes one older than it has.

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
        """Point an alias one step back through the versions that it named; again, one step further.

        Versions that no longer exist are skipped.

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
        """Remove an alias, so that it names nothing; whether there was one. Its history stays.

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
        """Carry out a learner's decision; nothing happens where it was carried out before, as by a learner that died.

        The move's generation is the one that the alias gets by it; a refusal's is the one that the alias has.

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
                raise RegistryError(f"{move.action} of alias {move.alias}: not a decision that a learner makes")
            version = self.resolve(move.to_version)
            return self._pointers.point(
                move.action, move.alias, current, version, move.who, move.why, move.epoch, move.at
            )

    # --- learners

    def next_epoch(self, after: int = 0, *, alias: str = "production") -> int:
        """A number above `after` and above that of every learner of the alias so far."""
        return max(after, self._epochs.of(alias), self._pointers.epoch({alias, canary_of(alias)})) + 1

    def begin_epoch(self, epoch: int, *, alias: str = "production") -> None:
        """Begin an epoch of the alias's learner: from now on writes of older ones do not count."""
        with self._lock():
            self._epochs.begin(epoch, alias)

    @contextmanager
    def in_epoch(self, epoch: int, *, alias: str = "production") -> Iterator[None]:
        """Keep others from beginning a newer epoch of the alias during the block.

        Raises:
            Superseded: a newer one has begun.
        """
        with self._lock():
            if epoch < (newest := self._epochs.of(alias)):
                raise Superseded(f"another learner has taken over: epoch {epoch} is over, this is epoch {newest}")
            yield

    def identity(self) -> str:
        """A name that this registry has kept since it was first asked for."""
        path = self.dir / LEARNER / IDENTITY
        with self._lock():
            if not path.exists():
                replace_file(path, token("registry-").encode())
            with os_errors(path):
                return path.read_text()

    # --- maintenance

    def gc(self, *, of: str | None = None, dry_run: bool = False) -> list[Removed]:
        """Remove unneeded files, see `pruning`: leftovers, abandoned checkpoints, superfluous versions and images.

        With `of` an origin, only versions of that origin. A removed version leaves a tombstone, so that its number is
        never used again. While it is uncertain what an alias names or has named, nothing is removed.

        Raises:
            AliasDamaged: that is uncertain for an alias; with `of`, nothing is raised.
        """
        if not self.dir.exists():
            return []
        with self._lock():
            if disagreements := self._pointers.disagreements(locked=True):
                if of is not None:
                    return []
                raise AliasDamaged(f"{'; '.join(map(str, disagreements))}; until then gc removes nothing")
            since = pruning.cutoff(self._clock(), self._settings.keep_hours)
            removed = pruning.superfluous(self, self._pointers, self._settings, since, of)
            if of is None:
                left = pruning.leftovers(self.dir, self._pointers.folder)
                removed = [*left, *pruning.deserted_checkpoints(self.dir, since), *removed]
            if not dry_run:
                for item in removed:
                    pruning.remove(item, self._pointers.now())
        return removed

    def faults(self) -> list[Fault]:
        """Faults of aliases and history; reads the versions that aliases name, but needs no torch."""
        return self._pointers.disagreements() + self._pointers.torn() + self._dangling()

    def repair(self) -> list[Fault]:
        """Make aliases and history agree again, each rebuilt from the other; returns the faults that are gone.

        Replaced files are kept in the folder ``damaged``. A second repair changes nothing.
        """
        if not self.dir.exists():
            return []
        with self._lock():
            before = self._pointers.disagreements(locked=True) + self._pointers.torn()
            self._pointers.repair()
            left = self._pointers.disagreements(locked=True) + self._pointers.torn()
        return [fault for fault in before if fault not in left]

    def _dangling(self) -> list[Fault]:
        """Aliases that name a missing version, or one whose files differ from the published ones."""
        found = []
        for name, alias in self.aliases().items():
            try:
                problems = self.verify(alias.version)
            except VersionNotFound:
                problems = [f"it does not exist; existing: {self._inventory()}"]
            if problems:
                problem = f"names version {alias.version}: {'; '.join(problems)}"
                remedy = f"`cifarctl registry rollback --alias {name}` goes back to what it named before"
                found.append(Fault(self._pointers.folder / name, problem, remedy, curable=False))
        return found

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self.dir, self._settings.lock_timeout)
