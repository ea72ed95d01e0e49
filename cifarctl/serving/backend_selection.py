"""Choosing a backend: the fastest on this host that agrees with float32 eager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from cifarctl import models
from cifarctl.errors import RegistryError, SettingsError
from cifarctl.models import backends
from cifarctl.models.backends import Backend, Network, Plan, Unusable
from cifarctl.models.backends.eager import Eager
from cifarctl.models.predictor import choose_device
from cifarctl.registry import Registry, validation
from cifarctl.registry.loading import LoadedModel
from cifarctl.serving import host_cache
from cifarctl.serving.agreement import Agreement, compare
from cifarctl.serving.ranking import REFERENCE, Choice, identity, order, parse_speeds, permitted
from cifarctl.serving.speed import images_per_second
from cifarctl.settings import ServeSettings

MEASURE_SECONDS = 0.3  # for measuring the speeds; building the backends takes as long again
#: Validation images, about, that a successor of a version in service is checked on, which must not slow that one down.
SUCCESSOR_IMAGES = 1000


@dataclass(frozen=True)
class Prepared:
    """A version ready to be served.

    `notices` are lines for people. `ranking`, fastest first and empty where there was no choice, holds for the next
    version too if it has the same `architecture`.
    """

    backend: Backend
    notices: tuple[str, ...]
    ranking: tuple[Choice, ...]
    architecture: tuple[str, Mapping[str, Any]]


def prepare(
    loaded: LoadedModel,
    registry: Registry,
    options: ServeSettings,
    threads: int,
    *,
    like: Prepared | None = None,
) -> Prepared:
    """Make `loaded` ready to predict as `options` say, on `threads` CPU threads.

    Any other backend or precision must predict the same as float32 eager on the registry's validation images, or is
    refused. `like` is the version in service: its choice holds for a version of the same architecture (see
    `models.core`) without measuring again, but not without that check, on about a thousand images. It may go on
    predicting in another thread.

    Raises:
        SettingsError: a backend named in the settings is not installed, cannot run here, or does not agree.
    """
    work = _Preparation(loaded, registry, options, threads, like)
    if like is not None and models.core(*like.architecture) != models.core(*work.architecture):
        work.like = None
    backend = work.run()
    return Prepared(backend, tuple(work.notices), work.ranking, work.architecture)


@dataclass
class _Preparation:
    """The preparation of one version."""

    loaded: LoadedModel
    registry: Registry
    options: ServeSettings
    threads: int
    like: Prepared | None
    notices: list[str] = field(default_factory=list)
    ranking: tuple[Choice, ...] = ()
    built: dict[Choice, Backend] = field(default_factory=dict)
    expected: torch.Tensor | None = None  # the reference's probabilities of the validation images

    def run(self) -> Backend:
        choices, self.notices = permitted(self.options, self.device)
        if choices == [REFERENCE]:
            return self.reference
        if not validation.path(self.registry, self.split).exists():
            return self.unchecked(f"{self.registry.dir} holds no validation images of version {self.version}")
        self.ranking = (self.like and self.like.ranking) or self.rank(choices)
        return self.first()

    @cached_property
    def device(self) -> torch.device:
        name = self.options.backend
        if self.options.device == "auto" and name != "auto" and backends.find(name).cpu_only:
            return torch.device("cpu")
        return choose_device(self.options.device, "serve.device")

    @cached_property
    def network(self) -> Network:
        return self.loaded.network()

    @cached_property
    def reference(self) -> Backend:
        return self.built.get(REFERENCE) or Eager(self.network, self.plan(REFERENCE))

    @property
    def architecture(self) -> tuple[str, Mapping[str, Any]]:
        return self.loaded.manifest.model, self.loaded.manifest.arguments

    @property
    def version(self) -> int:
        return self.loaded.manifest.version

    @property
    def split(self) -> str:
        return self.loaded.manifest.split.sha256

    def plan(self, choice: Choice) -> Plan:
        return Plan(choice.precision, self.device, self.threads, self.options.batch_size)

    def unchecked(self, problem: str) -> Backend:
        """Fall back to the reference, which alone needs no check; a notice says why."""
        self.notices.append(
            f"{problem}: {REFERENCE} predicts, as nothing faster can be checked; "
            "run `cifarctl eval` once where the data set is"
        )
        return self.reference

    # --- in which order

    def rank(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        """`choices`, fastest first, as this host has measured before or measures now."""
        first = choices[0]
        if len(choices) == 1:
            return tuple(choices)
        name, arguments = models.core(*self.architecture)
        key = identity(choices, self.device) | {
            "what": "images per second",
            "architecture": name,
            "arguments": arguments,
            "classes": self.network.classes,
            "batch_size": self.options.batch_size,
            "threads": self.threads,
        }
        speeds = parse_speeds(host_cache.read(key), choices)
        if speeds is None:
            for choice in choices:
                with suppress(Unusable):  # reported when its turn comes
                    self.build(choice)
            speeds = images_per_second(self.built, self.plan(first).chunk, MEASURE_SECONDS)
            if len(speeds) == len(choices):
                host_cache.write(key, {str(choice): speed for choice, speed in speeds.items()})
        # Choices that do not work come first, so that they are reported.
        return (*(choice for choice in choices if choice not in speeds), *order(speeds))

    # --- which of them

    def first(self) -> Backend:
        """The first backend of `ranking` that works and agrees."""
        refused = []
        for choice in self.ranking:
            if choice == REFERENCE:
                break
            try:
                backend = self.build(choice)
            except Unusable as error:
                refused.append(str(error))
                self.ranking = tuple(each for each in self.ranking if each != choice)  # it was not measured either
                continue
            agreement = self.agreement(choice, backend)
            if agreement is None:
                return self.unchecked(f"the validation images of version {self.version} cannot be read")
            if agreement.ok:
                self.notices += refused
                return backend
            refused.append(f"{choice} is refused for version {self.version}: {agreement}")
        else:
            raise SettingsError(
                f"{'; '.join(refused)}; set serve.backend and serve.precision to auto, which choose one that agrees"
            )
        self.notices += refused
        return self.reference

    def build(self, choice: Choice) -> Backend:
        if choice not in self.built:
            self.built[choice] = backends.build(choice.backend, self.network, self.plan(choice))
        return self.built[choice]

    def agreement(self, choice: Choice, backend: Backend) -> Agreement | None:
        """How `backend` agrees with the reference, as this host has found before or finds now.

        None where there is nothing to compare on.
        """
        key = identity([choice], self.device) | {
            "what": "agreement",
            "model": self.loaded.manifest.sha256,
            "split": self.split,
            "first": self.like is None,
        }
        known = Agreement.parse(host_cache.read(key))
        if known is None and self.images is not None:
            pixels, labels = self.images
            with ThreadPoolExecutor(max_workers=1) as pool:
                found = pool.submit(backend, pixels)
                if self.like is not None:  # two checks at once would slow down the version in service
                    found.result()
                if self.expected is None:
                    self.expected = self.reference(pixels)
            known = compare(found.result(), self.expected, labels)
            host_cache.write(key, asdict(known))
        return known

    @cached_property
    def images(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Pixels and labels in the registry for such checks; fewer for the successor of a version in service."""
        try:
            kept = validation.load(self.registry, self.split)
        except RegistryError:
            kept = None
        if kept is None:
            return None
        pixels, labels = kept
        every = 1 if self.like is None else max(1, len(labels) // SUCCESSOR_IMAGES)
        return pixels[::every], labels[::every]
