"""Watching an alias: the next version is loaded and checked while the present one serves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from cifarctl import events
from cifarctl.errors import CifarctlError, IntegrityError, SettingsError, UntrustedCode, VersionNotFound
from cifarctl.registry import Registry
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.serving.backend_selection import Prepared

NICENESS = 10  # of this thread: between normal (0) and the lowest priority (19)


@dataclass(frozen=True)
class Ready:
    """A version that has passed its checks, with its backend."""

    loaded: LoadedModel
    prepared: Prepared

    @property
    def version(self) -> int:
        """The number of the version."""
        return self.loaded.manifest.version


@dataclass(frozen=True)
class Gone:
    """The alias was removed."""


Found: TypeAlias = Ready | events.SwapRefused | events.Notice | Gone


class AliasWatcher:
    """A thread that watches an alias and prepares the version that it names for the serving loop to take."""

    def __init__(
        self,
        registry: Registry,
        alias: str,
        interval: float,
        generation: int,
        current: Ready,
        prepare: Callable[[LoadedModel, Prepared], Prepared],
    ) -> None:
        """Report moves after `generation`, 0 where the alias does not exist, looking every `interval` seconds.

        `prepare` makes a version ready to predict, like the version in service (`current`).
        """
        self._registry, self._alias, self._interval, self._generation = registry, alias, interval, generation
        self._current, self._prepare = current, prepare
        self._found: Found | None = None
        self._unreadable = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alias-watcher", daemon=True)

    def __enter__(self) -> AliasWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> Found | None:
        """The current target of the alias: a version ready to serve, why it is refused, or that the alias is gone.

        None where the alias has not moved since the last call. The version may be the one in service, where the alias
        has moved away and back.
        """
        if self._found is None:  # the usual case, without the lock
            return None
        with self._lock:
            found, self._found = self._found, None
        return found

    def _run(self) -> None:
        _step_back()
        while not self._stop.wait(self._interval):
            try:
                alias = self._registry.alias(self._alias)
            except CifarctlError as error:  # a network disk may be away for a moment: the version in service stays
                self._tell(error)
                continue
            self._unreadable = False
            generation = 0 if alias is None else alias.generation
            if generation == self._generation:
                continue
            try:
                found = Gone() if alias is None else self._prepared(alias.version)
            except CifarctlError:  # could not be read this time
                continue
            self._generation = generation
            with self._lock:
                self._found = found

    def _tell(self, error: CifarctlError) -> None:
        """Report once that the alias cannot be read, after any result that has not been taken yet."""
        with self._lock:
            if not self._unreadable and self._found is None:
                self._unreadable = True
                serving = self._current.loaded.manifest.version
                self._found = events.Notice(
                    f"the alias {self._alias} cannot be read ({error}); version {serving} goes on serving"
                )

    def _prepared(self, version: int) -> Ready | events.SwapRefused:
        try:
            return self._ready(version)
        except (IntegrityError, UntrustedCode, VersionNotFound, SettingsError) as error:
            return events.SwapRefused(version, str(error))
        except CifarctlError:
            raise
        except Exception as error:  # noqa: BLE001  without this thread no swap ever happens again
            return events.SwapRefused(version, f"{type(error).__name__}: {error}")

    def _ready(self, version: int) -> Ready | events.SwapRefused:
        loaded = load(self._registry, version)
        serving = self._current.loaded.manifest
        if loaded.manifest.classes != serving.classes:
            return events.SwapRefused(version, "it has other classes; restart serve to change them")
        if version != serving.version:
            self._current = Ready(loaded, self._prepare(loaded, self._current.prepared))
        return self._current


def _step_back() -> None:
    """Lower the priority of this thread: checking a version takes a second of CPU time, and predictions come first."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
