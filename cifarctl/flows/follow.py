"""Following an alias: the next version is loaded and checked beside the one that serves."""

from __future__ import annotations

import threading
from types import TracebackType

from cifarctl.errors import CifarctlError
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load


class AliasFollower:
    """A thread that looks at an alias and loads what it names; the serving loop takes the result when it likes."""

    def __init__(self, registry: Registry, alias: str, interval: float, current: int, generation: int) -> None:
        self._registry, self._alias, self._interval = registry, alias, interval
        self._current, self._generation = current, generation
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
        """A version that is ready to serve, or (version, why it was refused), once each; else None."""
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
            self._generation = alias.generation
            if alias.version == self._current:
                found: LoadedModel | tuple[int, str] | None = None  # back before the other one was taken
            else:
                try:
                    found = load(self._registry, alias.version)
                    self._current = alias.version
                except CifarctlError as error:
                    found = (alias.version, str(error))
            with self._lock:
                self._found = found
