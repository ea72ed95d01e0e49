"""Images: sources, the split, augmentation and drift scenarios."""

from __future__ import annotations

from cifarctl.data.augment import augment
from cifarctl.data.course import Course, Passage
from cifarctl.data.scenario import Scenario
from cifarctl.data.sources import classes, load, split_of
from cifarctl.data.split import Split, split
from cifarctl.data.types import Dataset, Images

__all__ = [
    "Course",
    "Dataset",
    "Images",
    "Passage",
    "Scenario",
    "Split",
    "augment",
    "classes",
    "load",
    "split",
    "split_of",
]
