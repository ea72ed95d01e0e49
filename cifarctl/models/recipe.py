"""Training defaults of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Tta: TypeAlias = Literal["none", "flip", "flip-shift"]


@dataclass(frozen=True)
class Recipe:
    """Training defaults of an architecture; settings of the same name override them.

    With ``adamw`` the learning rate follows one cycle; with ``muon`` it falls linearly. If there is a target accuracy,
    `cycle` is the length of the first learning-rate cycle in epochs, and `early_side` is the image side in pixels in
    the first half of each cycle. `arguments` are passed to `build` in addition to the number of classes, and are saved
    in the manifest.
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
