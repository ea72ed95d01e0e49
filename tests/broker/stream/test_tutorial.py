"""The tutorial's own producer and consumer, on the embedded broker."""

from __future__ import annotations

import pytest
from fixtures_broker import own_settings
from tutorial_anywhere import test_the_tutorials_consumer_reads_our_json, test_the_tutorials_producer_is_served  # noqa: F401  (tests that run here too)

from cifarctl.settings import KafkaSettings


@pytest.fixture(params=["broker"])
def kafka(request: pytest.FixtureRequest) -> KafkaSettings:
    return own_settings(request.getfixturevalue(request.param))
