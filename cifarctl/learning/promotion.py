"""The path of a snapshot: a version of its own, the canary's alias while it is on trial, then the champion's."""

from __future__ import annotations

from collections.abc import Sequence

from cifarctl.errors import AliasConflict, ModelTooLarge
from cifarctl.learning.canary_alias import CanaryAlias
from cifarctl.learning.decisions import Decisions
from cifarctl.learning.lineage import Lineage
from cifarctl.learning.observed import ObservedStream
from cifarctl.learning.trial import Trial, Verdict
from cifarctl.online.gate import Guard, Pairs
from cifarctl.registry import Description, Registry
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish
from cifarctl.settings import OnlineSettings

#: Versions after which those that a learner has made and nobody needs are removed.
TIDY_EVERY = 10


class Promotion:
    """Publishes the newest snapshot and moves the alias, unless that was done before a crash."""

    def __init__(
        self,
        registry: Registry,
        settings: OnlineSettings,
        alias: str,
        lineage: Lineage,
        trial: Trial,
        stream: ObservedStream,
        decisions: Decisions,
        canary: CanaryAlias,
    ) -> None:
        """Decisions are about the version that `alias` names."""
        self._registry, self._settings, self._alias, self._trial = registry, settings, alias, trial
        self.lineage, self.stream, self.decisions, self.canary = lineage, stream, decisions, canary

    def promote(self, reasons: Sequence[str], verdict: Verdict) -> int:
        """Publish the newest snapshot and make it the champion; its version.

        Raises:
            AliasConflict: somebody else has moved the alias.
            ModelTooLarge: it could not be loaded.
        """
        decisions, lineage = self.decisions, self.lineage
        if (move := decisions.again("promote", self.stream.now)) is not None:
            assert move.to_version is not None
            version, decisions.made = move.to_version, move.generation
        else:
            if not decisions.unmoved:  # before there is a version for nothing
                raise AliasConflict(f"{decisions.mover} has moved the alias {self._alias}")
            version = self._published(verdict.pairs, verdict.guard)
            decisions.carry_out("promote", version, "; ".join(reasons), champion=lineage.version, now=self.stream.now)
            decisions.made = decisions.generation
        self.canary.withdraw(f"version {version} is promoted")
        lineage.promoted(load(self._registry, version), measured=move is None)
        return version

    def reject(self, reasons: Sequence[str]) -> None:
        """Put on record that the newest snapshot is not promoted.

        Raises:
            AliasConflict: somebody else has moved the alias.
        """
        if self.decisions.again("reject", self.stream.now) is None:
            champion = self.lineage.version
            self.decisions.carry_out("reject", champion, "; ".join(reasons), champion=champion, now=self.stream.now)

    def show_canary(self, guard: Guard | None = None) -> None:
        """Make the snapshot on trial the canary, unless the validation images speak against it; no decision."""
        decisions, lineage = self.decisions, self.lineage
        if not self.canary.wanted or lineage.challenger is None or lineage.standing.following:
            return
        if decisions.redoing or not decisions.unmoved:
            return
        guard = guard or self._trial.guard(lineage.challenger)
        if not guard.holds:
            self.canary.withdraw(str(guard))
            return
        try:
            version = self._published(lineage.standing.pairs, guard)
        except ModelTooLarge as error:
            self.canary.withdraw(str(error))
            return
        self.canary.show(version, f"on trial against version {lineage.version}: {guard}")

    def take_over_canary(self) -> None:
        """Let the canary that another process of this learner has left stay only if it is the snapshot on trial."""
        on_trial = not (self.lineage.standing.following or self.decisions.redoing)
        snapshot = self.lineage.snapshot if on_trial else None
        self.canary.take_over(snapshot.model if snapshot else None, self.lineage.version)

    def _published(self, pairs: Pairs, guard: Guard) -> int:
        """The version of the newest snapshot: the canary if it is that one, else a new version."""
        lineage, snapshot = self.lineage, self.lineage.snapshot
        assert snapshot is not None
        if (version := self.canary.version_of(snapshot.model, lineage.version)) is not None:
            return version
        description = Description.like(
            lineage.champion.manifest,
            model=snapshot.architecture,
            arguments=snapshot.arguments,
            settings=self._settings.model_dump(mode="json"),
            metrics={
                "validation_accuracy": guard.challenger,
                "stream_accuracy": pairs.challenger,
                "labelled": float(self.stream.buffer.labelled),
                "base": float(lineage.base_version),
            },
            parent=lineage.version,
            origin="learner",
        )
        version = publish(self._registry, snapshot.model, description).version
        if version % TIDY_EVERY == 0:  # there are so many snapshots that nobody else could
            self._registry.gc(of="learner")
        return version
