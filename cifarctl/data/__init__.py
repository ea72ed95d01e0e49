"""Images: where they come from, how they are split, augmented and made to drift."""

from __future__ import annotations

from cifarctl.data.augment import augment
from cifarctl.data.drift import Scenario
from cifarctl.data.sources import load
from cifarctl.data.split import Split, split
from cifarctl.data.types import Dataset, Images

__all__ = ["Dataset", "Images", "Scenario", "Split", "augment", "load", "split"]
