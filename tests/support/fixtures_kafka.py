"""Apache Kafka for tests.

Where Kafka cannot be had the tests are skipped with the reason; they fail instead where
REQUIRE_APACHE_KAFKA=1 says that it must be had.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from apache_kafka import ApacheKafka, unavailable
from kafka_security import Secure

from cifarctl.settings import KafkaSettings

REQUIRED = os.environ.get("REQUIRE_APACHE_KAFKA") == "1"


@dataclass(frozen=True)
class SecureKafka:
    """A broker with access control, and the settings that open it."""

    kafka: ApacheKafka
    security: Secure


def require_kafka() -> None:
    """Skip the test, or fail it, where Kafka cannot be had."""
    if (reason := unavailable()) is not None:
        (pytest.fail if REQUIRED else pytest.skip)(reason)


def own_settings(kafka: ApacheKafka, **changes: object) -> KafkaSettings:
    """Settings with a prefix and a group that nobody else has."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    given = {"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": name, "group_id": name}
    return KafkaSettings.model_validate(given | changes)


@pytest.fixture(scope="session")
def apache() -> Iterator[ApacheKafka]:
    """One plaintext node for the whole run; tests keep apart by topic prefix, and none may stop it."""
    require_kafka()
    with ApacheKafka() as kafka:
        yield kafka


@pytest.fixture
def apache_kafka_settings(apache: ApacheKafka) -> KafkaSettings:
    """Prefix and group of this test's own on the shared node."""
    return own_settings(apache)


@pytest.fixture
def apache_alone() -> Iterator[ApacheKafka]:
    """One plaintext node of this test's own, to be killed, paused and restarted."""
    require_kafka()
    with ApacheKafka() as kafka:
        yield kafka


@pytest.fixture(scope="module")
def apache_stock() -> Iterator[ApacheKafka]:
    """One plaintext node with Kafka's own defaults; a test that ends it starts it again."""
    require_kafka()
    with ApacheKafka(stock=True) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def apache_cluster() -> Iterator[ApacheKafka]:
    """Three plaintext nodes; a test that ends one starts it again."""
    require_kafka()
    with ApacheKafka(3) as kafka:
        yield kafka


@pytest.fixture
def apache_cluster_settings(apache_cluster: ApacheKafka) -> KafkaSettings:
    """Prefix and group of this test's own on the three nodes; three replicas."""
    return own_settings(apache_cluster, replication=3)


@pytest.fixture(scope="module")
def secure_kafka() -> Iterator[SecureKafka]:
    """One node with TLS, SASL and access control, which makes no topic by itself."""
    require_kafka()
    with ApacheKafka(secure=(security := Secure()), properties={"auto.create.topics.enable": "false"}) as kafka:
        yield SecureKafka(kafka, security)
