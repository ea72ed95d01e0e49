"""Following an alias: the next version is loaded and checked beside the one that serves."""

from __future__ import annotations

import threading
from types import TracebackType

from cifarctl.errors import CifarctlError, IntegrityError, VersionNotFound
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load


class AliasFollower:
    """A thread that looks at an alias and loads what it names; the serving loop takes the result when it likes."""

    def __init__(self, registry: Registry, alias: str, interval: float, generation: int) -> None:
        """Report moves after `generation`, looking every `interval` seconds."""
        self._registry, self._alias, self._interval, self._generation = registry, alias, interval, generation
        self._found: LoadedModel | tuple[int, str] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alias-follower", daemon=True)

    def __enter__(self) -> AliasFollower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> LoadedModel | tuple[int, str] | None:
        """What the alias names since its last move: a version ready to serve, or (version, why it was refused).

        None where it has not moved since the last call. It may be the version that serves, the alias having been
        away and come back: whether that one was ever taken is known to the caller only.
        """
        if self._found is None:  # the usual case, without the lock
            return None
        with self._lock:
            found, self._found = self._found, None
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                alias = self._registry.alias(self._alias)
            except CifarctlError:  # a registry on a network disk may be away for a moment; what serves, serves on
                continue
            if alias is None or alias.generation == self._generation:
                continue
            found: LoadedModel | tuple[int, str]
            try:
                found = load(self._registry, alias.version)
            except (IntegrityError, VersionNotFound) as error:
                found = (alias.version, str(error))
            except CifarctlError:  # could not be read this time
                continue
            except Exception as error:  # noqa: BLE001  this thread must live: without it no swap ever happens again
                found = (alias.version, f"{type(error).__name__}: {error}")
            self._generation = alias.generation
            with self._lock:
                self._found = found
