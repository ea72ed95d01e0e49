"""How an architecture is best trained, where the settings do not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Tta: TypeAlias = Literal["none", "flip", "flip-shift"]


@dataclass(frozen=True)
class Recipe:
    """What `train` does for an architecture; most of it can be set otherwise, by settings of the same names.

    With ``adamw`` the learning rate rises and falls in one cycle, with ``muon`` it falls in a straight line from where
    it begins. On the way to a target accuracy, `cycle`: the epochs in which it first does so; `early_side`: the side
    (pixels) to which images are made smaller in the first half of each cycle. `arguments`: what `build` is given
    besides the number of classes, and the manifest keeps.
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
