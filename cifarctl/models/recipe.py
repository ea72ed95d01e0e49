"""How an architecture is trained, unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Tta: TypeAlias = Literal["none", "flip", "flip-shift"]


@dataclass(frozen=True)
class Recipe:
    """The training of an architecture; settings of the same names override most of it.

    With ``adamw`` the learning rate rises and falls within a cycle, with ``muon`` it falls linearly from its peak.

    Attributes:
        cycle: epochs of the first cycle on the way to a target accuracy.
        early_side: side (pixels) of the images in the first half of each cycle on the way to a target accuracy.
        arguments: arguments of `build` besides the number of classes, which the manifest keeps.
    """

    optimiser: Literal["adamw", "muon"] = "adamw"
    cycle: int = 4
    early_side: int | None = None
    batch_size: int = 128
    learning_rate: float = 8e-3
    weight_decay: float = 5e-2
    label_smoothing: float = 0.05
    tta: Tta = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
