"""Which versions are on duty: production, and beside it the canary while there is one."""

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
    """Follows the alias that is served, and that of its canary where `serve.canary` wants one.

    `model` and `canary` are what `Answers` takes.
    """

    def __init__(
        self,
        registry: Registry,
        options: ServeSettings,
        alias: Alias,
        current: Ready,
        prepare: Callable[[LoadedModel, Prepared], Prepared],
    ) -> None:
        """`current` is what `alias` names; `prepare` makes another version ready, like one that serves."""

        def follower(name: str, generation: int) -> AliasWatcher:
            return AliasWatcher(registry, name, options.alias_interval, generation, current, prepare)

        self._production = follower(alias.name, alias.generation)
        self._trials = follower(canary_of(alias.name), 0) if options.canary else None
        self._followers = ExitStack()
        self._current = current
        self._named: Ready | None = None  # by the canary's alias
        self._share, self._trial = options.canary, 0
        self.model = _model(current)
        self.canary: OnTrial | None = None

    def __enter__(self) -> ModelsInService:
        self._followers.enter_context(self._production)
        if self._trials is not None:
            self._followers.enter_context(self._trials)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._followers.close()

    def changes(self) -> Iterator[events.ServeEvent]:
        """Take over what the aliases name by now, and tell of it."""
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
        """Tell of another canary; what has become the production version is none any more."""
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
    """What the choice of its backend met, and whether the version was trained on what `produce` streams."""
    for line in ready.prepared.notices:
        yield events.Notice(line)
    manifest = ready.loaded.manifest
    if "stream" in manifest.split.seen:
        yield events.Notice(
            f"version {manifest.version} was trained on the images that `produce` streams: its accuracy flatters"
        )


def _model(ready: Ready) -> Model:
    return Model(ready.loaded.manifest, ready.prepared.backend)
