"""Online learning, and where versions are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cifarctl.settings.types import Fraction, Location, PositiveFloat, PositiveInt, Seconds, Section


class OnlineSettings(Section):
    """The learner."""

    strategy: str = Field(
        "mixture",
        description="how the learner learns: mixture, replay, er-ace, der++, finetune, or that of another package",
    )
    update_every: PositiveInt = Field(125, description="labelled images between two updates")
    update_interval: Seconds = Field(300.0, description="seconds between two updates; whichever comes first")
    min_examples: PositiveInt = Field(200, description="fewest labelled images to learn from")
    buffer_size: Annotated[int, Field(ge=10)] = Field(4000, description="labelled images kept to learn from")
    holdout_every: Annotated[int, Field(ge=2)] = Field(
        10, description="every k-th labelled image is never trained on, only judged by"
    )
    holdout_size: PositiveInt = Field(400, description="most recent held-out images that are kept")
    reference_size: PositiveInt = Field(20_000, description="training images kept beside the stream's, for replay")
    steps: PositiveInt = Field(20, description="optimiser steps of one update")
    batch_size: PositiveInt = Field(128, description="images a step of an update")
    learning_rate: PositiveFloat = Field(2e-3, description="base learning rate of updates (AdamW)")
    learning_rate_max: PositiveFloat = Field(4e-3, description="highest learning rate, after a drift")
    learning_rate_min: PositiveFloat = Field(5e-4, description="lowest learning rate, in long calm")
    detector: Literal["adwin", "hddm-w", "page-hinkley", "kswin"] = Field(
        "adwin", description="river drift detector on the prequential error"
    )
    gate_alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="chance that challengers which are no better are ever promoted, all of them together"
    )
    validation_tolerance: Fraction = Field(
        0.03,
        description="fall of validation accuracy below the first version's that the gate lets pass; any, while the "
        "inputs have moved away from the validation images",
    )
    validation_size: PositiveInt = Field(1500, description="validation images that the gate looks at")
    follow_relabelling: bool = Field(
        False, description="follow labels that change over unmoved images, which look the same as poisoned ones"
    )
    allow_full: bool = Field(
        False, description="learn from a version of train --full, which knows the images that it is judged by"
    )
    label_wait: Seconds = Field(
        600.0, description="seconds that an image waits for its label on the labels topic, or a label for its image"
    )
    label_wait_mb: PositiveInt = Field(
        64, description="MiB of memory for images that wait for their labels; beyond that the oldest go to the disk"
    )
    label_wait_disk_mb: Annotated[int, Field(ge=0)] = Field(
        1024,
        description="MiB of disk for those that do not fit into memory; beyond that the oldest are given up; 0 = none",
    )
    watch: Annotated[int, Field(ge=0)] = Field(
        500,
        description="labelled images after a promotion during which the version before may take over again",
    )
    threads: PositiveInt = Field(1, description="CPU threads of the learner")
    cpu_budget: PositiveFloat | None = Field(
        None, description="most of a core that the learner may use, 0.5 = half of one; default: its threads'"
    )
    niceness: Annotated[int, Field(ge=0, le=19)] = Field(10, description="lower priority of the learner process")
    heartbeat_timeout: Seconds = Field(60.0, description="seconds of silence after which a learner is restarted")
    seed: int = Field(0, ge=0, description="seed of the learner")


class RegistrySettings(Section):
    """The model registry that every command shares."""

    dir: Location = Field(Path("registry"), description="folder of versions, aliases and history")
    keep: PositiveInt = Field(20, description="newest versions that gc keeps")
    keep_hours: Annotated[float, Field(ge=0)] = Field(
        24.0, description="gc keeps what an alias named, or a learner wrote, within so many hours"
    )
    trusted_models: str = Field(
        "",
        description="architectures of your own whose code may be run to load a version: package.module:NAME, "
        "comma-separated",
    )
    max_model_mb: PositiveInt = Field(512, description="largest model file that is loaded, in MiB")
    lock_timeout: Seconds = Field(30.0, description="seconds to wait for another writer of the registry")

    @property
    def trusted(self) -> list[str]:
        """`trusted_models`, one by one."""
        return [path.strip() for path in self.trusted_models.split(",") if path.strip()]

    def trusting(self, *models: str) -> RegistrySettings:
        """The same for somebody who has named these architectures himself."""
        return self.model_copy(update={"trusted_models": ",".join([*self.trusted, *models])})
