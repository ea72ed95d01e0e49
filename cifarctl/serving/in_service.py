"""The versions in service: production, and the canary while there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from cifarctl import events
from cifarctl.registry import Alias, Registry
from cifarctl.registry.aliases import canary_of
from cifarctl.registry.loading import LoadedModel
from cifarctl.serving.alias_watcher import AliasWatcher, Ready
from cifarctl.serving.backend_selection import Prepared
from cifarctl.serving.pipeline import Model, OnTrial
from cifarctl.settings import ServeSettings


class ModelsInService:
    """Watches the alias that is served, and that of its canary where `serve.canary` is set.

    `model` and `canary` are the ones that the `InferencePipeline` should use now.
    """

    def __init__(
        self,
        registry: Registry,
        options: ServeSettings,
        alias: Alias,
        current: Ready,
        prepare: Callable[[LoadedModel, Prepared], Prepared],
    ) -> None:
        """`current` is the version that `alias` names; `prepare` makes another one ready, like one in service."""

        def watcher(name: str, generation: int) -> AliasWatcher:
            return AliasWatcher(registry, name, options.alias_interval, generation, current, prepare)

        self._production = watcher(alias.name, alias.generation)
        self._trials = watcher(canary_of(alias.name), 0) if options.canary else None
        self._watchers = ExitStack()
        self._current = current
        self._named: Ready | None = None  # by the canary's alias
        self._share, self._trial = options.canary, 0
        self.model = _model(current)
        self.canary: OnTrial | None = None

    def __enter__(self) -> ModelsInService:
        self._watchers.enter_context(self._production)
        if self._trials is not None:
            self._watchers.enter_context(self._trials)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchers.close()

    def changes(self) -> Iterator[events.ServeEvent]:
        """Swap in the versions that the aliases name by now, and yield events about it."""
        found = self._production.take()
        if isinstance(found, events.SwapRefused | events.Notice):
            yield found
        elif isinstance(found, Ready) and found.version != self._current.version:
            yield from notices(found)
            model, backend = found.loaded.manifest.model, found.prepared.backend
            yield events.Swapped(self._current.version, found.version, model, backend.name, backend.precision)
            self._current, self.model = found, _model(found)
        if self._trials is not None:
            named = self._trials.take()
            if isinstance(named, events.Notice):
                yield named
            elif named is not None:
                if isinstance(named, events.SwapRefused):
                    yield replace(named, canary=True)
                self._named = named if isinstance(named, Ready) else None
            yield from self._change_canary()

    def _change_canary(self) -> Iterator[events.ServeEvent]:
        """Change the canary, which ends where its version has become the production version."""
        old = None if self.canary is None else self.canary.model.manifest.version
        wanted = self._named if self._named and self._named.version != self._current.version else None
        new = None if wanted is None else wanted.version
        if new == old:
            return
        if wanted is None:
            self.canary = None
        else:
            yield from notices(wanted)
            self._trial += old is None
            self.canary = OnTrial(_model(wanted), self._share, self._trial)
        yield events.CanaryMoved(old, new, self._current.version, self._trial)


def notices(ready: Ready) -> Iterator[events.Notice]:
    """Notices about the choice of its backend, and about a version that was trained on the streamed images."""
    for line in ready.prepared.notices:
        yield events.Notice(line)
    manifest = ready.loaded.manifest
    if "stream" in manifest.split.seen:
        yield events.Notice(
            f"version {manifest.version} was trained on the images that `produce` streams: its accuracy flatters"
        )


def _model(ready: Ready) -> Model:
    return Model(ready.loaded.manifest, ready.prepared.backend)
