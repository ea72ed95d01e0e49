"""Settings of online learning and of the model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cifarctl.settings.types import Fraction, Location, PositiveFloat, PositiveInt, Seconds, Section


class OnlineSettings(Section):
    """Online learning."""

    strategy: str = Field(
        "mixture",
        description="online-learning strategy: mixture, replay, er-ace, der++, finetune, or a plug-in's name",
    )
    update_every: PositiveInt = Field(125, description="update after this many labelled images")
    update_interval: Seconds = Field(300.0, description="update after this many seconds, if that comes first")
    min_examples: PositiveInt = Field(200, description="minimum number of labelled images before an update")
    buffer_size: Annotated[int, Field(ge=10)] = Field(4000, description="replay buffer capacity, in images")
    holdout_every: Annotated[int, Field(ge=2)] = Field(
        10, description="hold out every k-th labelled image for evaluation; it is never trained on"
    )
    holdout_size: PositiveInt = Field(400, description="number of recent held-out images to keep")
    reference_size: PositiveInt = Field(20_000, description="number of training images to replay next to the stream's")
    steps: PositiveInt = Field(20, description="optimiser steps per update")
    batch_size: PositiveInt = Field(128, description="batch size of an update")
    learning_rate: PositiveFloat = Field(2e-3, description="base learning rate of updates (AdamW)")
    learning_rate_max: PositiveFloat = Field(4e-3, description="maximum learning rate, used after a drift")
    learning_rate_min: PositiveFloat = Field(
        5e-4, description="minimum learning rate, reached when no drift occurs for long"
    )
    detector: Literal["adwin", "hddm-w", "page-hinkley", "kswin"] = Field(
        "adwin", description="drift detector (from river) that monitors the prequential error"
    )
    gate_alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="maximum probability of ever promoting a challenger that is no better, over all trials"
    )
    validation_tolerance: Fraction = Field(
        0.03,
        description="maximum drop of validation accuracy below the first version's that the gate accepts; no limit "
        "while the input distribution differs from the validation images",
    )
    validation_size: PositiveInt = Field(1500, description="number of validation images that the gate evaluates on")
    follow_relabelling: bool = Field(
        False, description="learn from labels that change while the images do not; poisoned labels look the same"
    )
    allow_full: bool = Field(
        False,
        description="let the learner start from a version of train --full, which was trained on the gate's images",
    )
    label_wait: Seconds = Field(
        600.0,
        description="maximum seconds that an image waits for its label on the labels topic, or a label for its image",
    )
    label_wait_mb: PositiveInt = Field(
        64, description="memory limit for images that wait for their labels, in MiB; the oldest then go to disk"
    )
    label_wait_disk_mb: Annotated[int, Field(ge=0)] = Field(
        1024,
        description="disk limit for images that wait for their labels, in MiB; then the oldest are dropped; 0 = none",
    )
    watch: Annotated[int, Field(ge=0)] = Field(
        500,
        description="labelled images after a promotion during which it may be rolled back; 0 = no rollback",
    )
    threads: PositiveInt = Field(1, description="CPU threads for the learner")
    cpu_budget: PositiveFloat | None = Field(
        None, description="CPU limit of the learner, in cores; 0.5 = half a core; default: online.threads"
    )
    niceness: Annotated[int, Field(ge=0, le=19)] = Field(
        10, description="nice value of the learner process; higher = lower priority"
    )
    heartbeat_timeout: Seconds = Field(60.0, description="restart a learner that has been silent for this many seconds")
    seed: int = Field(0, ge=0, description="seed for the learner")


class RegistrySettings(Section):
    """The model registry that every command shares."""

    dir: Location = Field(Path("registry"), description="folder for versions, aliases and history")
    keep: PositiveInt = Field(20, description="number of newest versions that gc keeps")
    keep_hours: Annotated[float, Field(ge=0)] = Field(
        24.0, description="gc also keeps versions that an alias named, or a learner wrote, within this many hours"
    )
    trusted_models: str = Field(
        "",
        description="your own architectures whose code may run when a version is loaded: package.module:NAME, "
        "comma-separated",
    )
    max_model_mb: PositiveInt = Field(512, description="maximum size of a model file, in MiB")
    lock_timeout: Seconds = Field(30.0, description="maximum seconds to wait for the registry's lock")

    @property
    def trusted(self) -> list[str]:
        """`trusted_models` as a list."""
        return [path.strip() for path in self.trusted_models.split(",") if path.strip()]

    def trusting(self, *models: str) -> RegistrySettings:
        """These settings with `models` trusted too: the user has named them on the command line."""
        return self.model_copy(update={"trusted_models": ",".join([*self.trusted, *models])})
