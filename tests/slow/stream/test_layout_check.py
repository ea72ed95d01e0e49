"""LayoutCheck never suspects CIFAR-10."""

from __future__ import annotations

import numpy as np
import pytest
from layout_checks import never_suspected

from cifarctl import data
from cifarctl.settings import DataSettings
from cifarctl.stream import layout_check


@pytest.mark.cifar10
def test_no_drift_of_cifar10_is_suspected(cifar10_dir: object) -> None:
    pixels = data.load(DataSettings(source="cifar10", dir=cifar10_dir)).test.pixels[:1000].numpy()
    never_suspected(pixels)
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).reshape(pixels.shape)
    assert layout_check.channels_last(last).all()
    assert not layout_check.channels_last(pixels).any()
