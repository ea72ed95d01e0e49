"""The embedded broker for tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from cifarctl.settings import KafkaSettings
from cifarctl.stream.embedded import EmbeddedBroker


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    """One broker for the whole run; tests keep apart by topic prefix."""
    with EmbeddedBroker() as running:
        yield running


def own_settings(broker: EmbeddedBroker) -> KafkaSettings:
    """Prefix and group that nobody else has; a short session, since joining a group takes half of it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=name,
        group_id=name,
        session_timeout_ms=1500,
        commit_interval_ms=1,
    )


@pytest.fixture
def kafka(broker: EmbeddedBroker) -> KafkaSettings:
    """Settings of this test's own on that broker."""
    return own_settings(broker)
