"""Doubts about CIFAR-10: none."""

from __future__ import annotations

import numpy as np
import pytest
from doubting import never_doubted

from cifarctl import data
from cifarctl.settings import DataSettings
from cifarctl.stream import doubts


@pytest.mark.cifar10
def test_no_drift_of_cifar10_raises_a_doubt(cifar10_dir: object) -> None:
    pixels = data.load(DataSettings(source="cifar10", dir=cifar10_dir)).test.pixels[:1000].numpy()
    never_doubted(pixels)
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).reshape(pixels.shape)
    assert doubts.channels_last(last).all()
    assert not doubts.channels_last(pixels).any()
