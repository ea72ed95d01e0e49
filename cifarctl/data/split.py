"""The split of the training images into train, validation and stream, which all commands share."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from cifarctl.errors import DataError

PARTS = ("train", "validation", "stream")


@dataclass(frozen=True)
class Split:
    """Indices into the training images, int64 and ascending; `sha256` (hex) covers the indices and the seed."""

    train: torch.Tensor
    validation: torch.Tensor
    stream: torch.Tensor
    sha256: str


def split(labels: torch.Tensor, shares: tuple[float, float, float], seed: int) -> Split:
    """Split the images with `labels` (N,) by `shares`, stratified by class; each part has images of every class.

    Counts are rounded by the largest-remainder method, so 5,000 images of a class at 0.7, 0.1, 0.2 become exactly
    3,500, 500 and 1,000. The order within a class comes from raw PCG64 output (O'Neill 2014), whose stream NumPy
    guarantees: the same seed gives the same split on every platform and NumPy version.

    Raises:
        DataError: a class has fewer images than there are parts, or there are no images.
    """
    array = labels.cpu().numpy().astype(np.int64)
    if not len(array):
        raise DataError("there are no training images to split; check data.dir and data.source")
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in np.unique(array).tolist():
        members = np.flatnonzero(array == label)
        if len(members) < len(PARTS):
            raise DataError(
                f"class {label} has {len(members)} training image(s); the split into {', '.join(PARTS)} "
                f"needs at least {len(PARTS)} of every class, so add images or move the class elsewhere"
            )
        order = np.argsort(np.random.PCG64([seed, label]).random_raw(len(members)), kind="stable")
        ends = np.cumsum(_counts(len(members), shares))
        for part, chosen in zip(parts, np.split(members[order], ends[:-1]), strict=True):
            part.append(chosen)
    indices = [np.sort(np.concatenate(part)).astype("<i8") for part in parts]
    train, validation, stream = (torch.from_numpy(index.astype(np.int64)) for index in indices)
    return Split(train, validation, stream, _digest(indices, seed))


def _counts(total: int, shares: tuple[float, float, float]) -> list[int]:
    """`total` split by `shares` with the largest-remainder method, at least one each."""
    quotas = [total * share / math.fsum(shares) for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    # Rounded, so that remainders that differ only by floating-point noise tie; ties go to the first part.
    remainders = [round(quota - count, 6) for quota, count in zip(quotas, counts, strict=True)]
    by_remainder = sorted(range(len(counts)), key=lambda part: -remainders[part])
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def _digest(indices: list[np.ndarray], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}".encode())
    for index in indices:
        digest.update(f"|{len(index)}|".encode())
        digest.update(index.tobytes())
    return digest.hexdigest()
