"""Notices about the layout or the scale of pixels."""

from __future__ import annotations

import numpy as np
from helpers import load_data
from layout_checks import never_suspected, said_of


def test_no_drift_is_suspected() -> None:
    dataset, _ = load_data()
    never_suspected(dataset.test.pixels[:96].numpy())


def test_each_problem_is_reported_once_and_not_if_the_scale_fits() -> None:
    dataset, _ = load_data()
    pixels = dataset.test.pixels[:400].numpy()
    unnormalised = (pixels / 2 + 127.5).astype(np.uint8)  # what 0 to 1 become
    assert len(list(said_of(unnormalised))) == 1
    assert not list(said_of(unnormalised, mean=(0.0, 0.0, 0.0)))
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).reshape(pixels.shape)
    assert len(list(said_of(last))) == 1
    mixed = np.where(np.arange(len(pixels))[:, None, None, None] % 2 == 0, pixels, last)
    assert len(list(said_of(mixed))) == 1
