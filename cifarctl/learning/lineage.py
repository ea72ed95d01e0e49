"""The champion, and its lineage: the snapshots that one strategy makes, each from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cifarctl import models
from cifarctl.data import Images
from cifarctl.errors import IntegrityError, RegistryError
from cifarctl.learning.scored_model import ScoredModel
from cifarctl.learning.state import Progress, Standing
from cifarctl.models.predictor import Precision, Predictor, choose_precision
from cifarctl.models.preprocess import Channels
from cifarctl.online.strategies import Snapshot, Start, Strategy, strategy
from cifarctl.registry import Registry
from cifarctl.registry.checkpoint import within
from cifarctl.registry.loading import LoadedModel, canary, load, require_trusted
from cifarctl.settings import OnlineSettings


class Lineage:
    """The models that are compared: the champion, the newest snapshot (the challenger), and the base version.

    The base is the version that no learner has made, from which all the learner's come. `standing` says whether
    snapshots are on trial or follow one that has won its trial.
    """

    champion: LoadedModel
    judged: ScoredModel  # the champion
    base: ScoredModel
    base_version: int
    strategy: Strategy
    standing: Standing
    challenger: ScoredModel | None
    snapshot: Snapshot | None  # of the challenger

    def __init__(
        self,
        registry: Registry,
        settings: OnlineSettings,
        champion: LoadedModel,
        progress: Progress,
        *,
        validation: Images,
        generator: torch.Generator,
    ) -> None:
        """Begin a lineage from `champion`; scores are taken on the `validation` images."""
        self._registry, self._settings, self._progress = registry, settings, progress
        self._validation, self._generator = validation, generator
        self._begin = strategy(settings.strategy)
        self.start_from(champion)

    @property
    def version(self) -> int:
        """Number of the champion."""
        return self.champion.manifest.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the champion knows."""
        return self.champion.manifest.classes

    @property
    def normalisation(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation by channel, which all snapshots share."""
        normalisation = self.champion.manifest.normalisation
        return normalisation.mean, normalisation.std

    @property
    def precision(self) -> Precision:
        """Arithmetic of updates and estimates; predictions of labelled images, which are counted, are float32."""
        self._progress.precision = self._progress.precision or choose_precision(
            "auto", self.champion.model, torch.device("cpu"), self._settings.batch_size, train=True
        )
        return self._progress.precision

    @property
    def kind(self) -> list[Any]:
        """Strategy and rules: a lineage cannot take over the state of one of another kind."""
        return [self._settings.strategy, self._settings.follow_relabelling]

    def start_from(self, champion: LoadedModel) -> None:
        """Start over from `champion`, the version to beat from now on."""
        self.champion = champion
        self.judged = self.measured(champion.predictor())
        base = self._base_of(champion)
        self.base_version = base.manifest.version
        self.base = self.judged if base is champion else self.measured(base.predictor())
        self.strategy = self._strategy_from(champion)
        self._put_on_trial(champion.manifest.version)

    def step_back(self, champion: LoadedModel) -> None:
        """Let the version before be the champion again; the strategy keeps what it knows of other concepts."""
        self.strategy.step_back()
        self.champion, self.judged = champion, self.measured(champion.predictor())
        self._put_on_trial(self.standing.began)

    def put_forward(self, snapshot: Snapshot) -> ScoredModel:
        """Make `snapshot` the challenger."""
        self.snapshot = snapshot
        self.challenger = self.measured(Predictor(snapshot.model, *self.normalisation))
        return self.challenger

    def sound(self, snapshot: Snapshot) -> bool:
        """Whether parameters and predictions are finite; if not, the strategy starts over."""
        try:
            canary(snapshot.model, self.champion.manifest.normalisation)
            sound = all(bool(tensor.isfinite().all()) for tensor in snapshot.model.state_dict().values())
        except IntegrityError:
            sound = False
        if not sound:
            self.strategy, self.standing.began = self._strategy_from(self.champion), self.version
        return sound

    def promoted(self, champion: LoadedModel, *, measured: bool) -> None:
        """Make the challenger's version the champion; `measured`: it is the challenger bit by bit, and has scores."""
        assert self.challenger is not None
        self.champion = champion
        self.judged = self.challenger if measured else self.measured(champion.predictor())
        self.standing.champion_at = self._progress.updated_arrived

    def measured(self, predictor: Predictor) -> ScoredModel:
        """A model with its scores on the validation images."""
        return ScoredModel(predictor, self._validation, len(self.classes))

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any] | None]:
        """Tensors, the strategy's JSON-able state, and how to build the snapshot on trial."""
        learned, state = self.strategy.dump()
        tensors = {f"lineage/{name}": tensor for name, tensor in learned.items()}
        if self.snapshot is None:
            return tensors, state, None
        tensors |= {f"snapshot/{name}": tensor for name, tensor in self.snapshot.model.state_dict().items()}
        return tensors, state, {"architecture": self.snapshot.architecture, "arguments": self.snapshot.arguments}

    def load(
        self,
        tensors: Mapping[str, torch.Tensor],
        state: dict[str, Any],
        snapshot: dict[str, Any] | None,
        champion: LoadedModel,
        standing: Standing,
    ) -> None:
        """Take over a dump of a lineage that began from the same version, and its champion and standing then.

        Raises:
            RegistryError: the snapshot's architecture is not trusted.
        """
        self.champion, self.judged, self.standing = champion, self.measured(champion.predictor()), standing
        self.strategy.load(within("lineage/", tensors), state)
        if snapshot is not None:
            architecture, arguments = snapshot["architecture"], snapshot["arguments"]
            require_trusted(self._registry, architecture, arguments)
            model = models.build(architecture, arguments)
            model.load_state_dict(within("snapshot/", tensors))
            self.put_forward(Snapshot(architecture, arguments, model.eval()))

    def _put_on_trial(self, began: int) -> None:
        self.challenger = self.snapshot = None
        self.standing = Standing(began)

    def _base_of(self, version: LoadedModel) -> LoadedModel:
        """The first ancestor of `version`: a learner is not measured against versions that it trained itself."""
        base = version.manifest.metrics.get("base")
        try:
            return version if base is None else load(self._registry, int(base))
        except RegistryError:  # no longer there
            return version

    def _strategy_from(self, version: LoadedModel) -> Strategy:
        return self._begin(start_of(version, self._generator, self._settings))


def start_of(version: LoadedModel, generator: torch.Generator, settings: OnlineSettings) -> Start:
    """The start of a lineage that continues from `version`."""
    manifest = version.manifest
    return Start(
        Snapshot(manifest.model, manifest.arguments, version.model),
        manifest.normalisation.mean,
        manifest.normalisation.std,
        len(manifest.classes),
        generator,
        settings.follow_relabelling,
    )
