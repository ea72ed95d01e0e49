"""Looking at topics where no broker is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse


@pytest.mark.parametrize(
    "look",
    [
        lambda settings: list(browse.read(settings, "t", partitions=[0])),
        lambda settings: list(browse.read(settings, "t")),
        lambda settings: browse.bounds(settings, "t"),
    ],
)
def test_a_broker_that_is_not_there_is_an_error_in_time(look: Callable[[KafkaSettings], object]) -> None:
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(BrokerError, match=r"kafka\.bootstrap_servers"):
        look(nobody)
