"""Kafka clients from the settings, and the topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource  # admin has it too, but not for type checkers
from confluent_kafka.cimpl import NewTopic  # admin has it too, but not for type checkers

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection, options
from cifarctl.stream.connection import broker_errors

MAX_CHECK_S = 10.0
EMBEDDED_CLUSTER = "cifarctl"  # the cluster id by which the embedded broker is known
QUEUE_KIB = 32 * 1024  # of unsent messages; beyond this, senders have to wait
METADATA_MS = 10_000  # until a new partition is noticed; the default is five minutes


@dataclass(frozen=True)
class Topics:
    """Names of all topics."""

    images: str
    labels: str
    predictions: str
    dead_letters: str
    learner: str

    @classmethod
    def of(cls, prefix: str) -> Topics:
        """The names under `prefix`."""
        return cls(
            images=f"{prefix}.images",
            labels=f"{prefix}.labels",
            predictions=f"{prefix}.predictions",
            dead_letters=f"{prefix}.dead-letters",
            learner=f"{prefix}.learner",
        )


@dataclass(frozen=True)
class Broker:
    """The broker at `kafka.bootstrap_servers`."""

    cluster_id: str | None

    @classmethod
    def of(cls, client: Consumer | Producer, timeout_s: float, topic: str | None = None) -> Broker:
        """The broker that `client` talks to; asked about one `topic` only, it answers sooner.

        Raises:
            KafkaException: it does not answer in time.
        """
        return cls(client.list_topics(topic, timeout=timeout_s).cluster_id)

    @property
    def embedded(self) -> bool:
        """Whether it is `cifarctl broker`, which supports neither idempotent nor transactional producers."""
        return self.cluster_id == EMBEDDED_CLUSTER


def producer(
    settings: KafkaSettings,
    *,
    idempotent: bool = False,
    transactional_id: str | None = None,
    on_error: Callable[[KafkaError], None] | None = None,
    **extra: Any,
) -> Producer:
    """A producer that waits for every replica.

    Args:
        settings: connection; `kafka.options` takes precedence.
        idempotent: the broker drops duplicates of retries and keeps the order; not supported by the embedded broker.
        transactional_id: makes it transactional, and fences the previous producer with the same id.
        on_error: gets connection errors, from within poll and flush.
        extra: further librdkafka options, ``**{"linger.ms": 0}``.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    own: dict[str, Any] = {
        "acks": "all",
        "linger.ms": 5,
        "delivery.report.only.error": True,
        # Java's default, so that a key goes to the same partition whichever client sends it.
        "partitioner": "murmur2_random",
        "queue.buffering.max.kbytes": QUEUE_KIB,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
        "enable.idempotence": idempotent or transactional_id is not None,
        **extra,
    }
    if transactional_id is not None:
        # A killed writer keeps read_committed readers waiting for that long, and until the broker checks (every 10 s).
        own |= {"transactional.id": transactional_id, "transaction.timeout.ms": options.TRANSACTION_TIMEOUT_MS}
    client: Producer = connection.create(Producer, settings, own, on_error)
    return client


def consumer(
    settings: KafkaSettings,
    group_id: str,
    *,
    on_error: Callable[[KafkaError], None] | None = None,
    **extra: Any,
) -> Consumer:
    """A consumer that commits only when told to, and reports a missing offset instead of choosing one.

    Args:
        settings: connection; `kafka.options` takes precedence.
        group_id: consumer group.
        on_error: gets connection errors, from within poll and consume.
        extra: further librdkafka options, ``**{"isolation.level": "read_uncommitted"}``.

    Raises:
        SettingsError: librdkafka refuses an option.
    """
    own = {
        "group.id": group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
        # The embedded broker answers a fetch only after half of this time, however much data there is.
        "fetch.wait.max.ms": 10,
        "fetch.queue.backoff.ms": 20,  # the default of a second starves a fast reader of small queues
        "queued.min.messages": 5000,
        "queued.max.messages.kbytes": 32 * 1024,
        **extra,
    }
    client: Consumer = connection.create(Consumer, settings, own, on_error)
    return client


def group_options(settings: KafkaSettings) -> dict[str, Any]:
    """librdkafka's options for a member of a group that rebalances incrementally.

    `kafka.group_protocol` = auto selects the consumer protocol (KIP-848) if the broker supports it and its own session
    timeout is at most `kafka.session_timeout_ms`; else the classic protocol.
    """
    own: dict[str, Any] = {}
    if settings.group_instance_id is not None:
        own["group.instance.id"] = settings.group_instance_id
    if settings.group_protocol == "consumer" or (
        settings.group_protocol == "auto" and _has_consumer_protocol(settings)
    ):
        return own | {"group.protocol": "consumer"}
    return own | {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 3,
    }


def check(settings: KafkaSettings) -> Broker:
    """Ask the broker for its metadata, and return once it has answered.

    Raises:
        BrokerError: no answer within `kafka.timeout_s` (10 s at most); names address, setting and remedy.
        SettingsError: librdkafka refuses an option.
    """
    seen: list[KafkaError] = []
    client = producer(settings, on_error=seen.append)
    try:
        return Broker.of(client, min(settings.timeout_s, MAX_CHECK_S))
    except KafkaException as error:
        client.poll(0)  # delivers the connection errors, which say more than "no answer"
        raise connection.explain(settings, "cannot connect", connection.most_telling(seen, error.args[0])) from None


def partition_counts(settings: KafkaSettings) -> dict[str, int]:
    """Number of partitions of each existing topic.

    Raises:
        BrokerError: no answer.
    """
    with broker_errors(settings, "cannot list topics"):
        return _partitions(connection.create(AdminClient, settings, {}, None), settings)


def ensure_topics(settings: KafkaSettings, names: Iterable[str]) -> None:
    """Create missing topics and wait until the broker lists all of them.

    `kafka.partitions` and `kafka.replication` apply. The learner's topic has one partition: the learner that is
    assigned it is the active one.

    Raises:
        BrokerError: no answer, no permission, a topic is absent and `kafka.create_topics` false, or the learner's topic
            has several partitions.
        SettingsError: librdkafka refuses an option.
    """
    wanted = list(dict.fromkeys(names))
    learner = Topics.of(settings.topic_prefix).learner
    deadline = time.monotonic() + settings.timeout_s
    admin = connection.create(AdminClient, settings, {}, None)
    with broker_errors(settings, "cannot create topics"):
        missing = set(wanted) - _partitions(admin, settings).keys()
        if missing and not settings.create_topics:
            raise BrokerError(
                f"the topic {min(missing)} does not exist and kafka.create_topics is false: create it, "
                "or set kafka.topic_prefix to existing topics"
            )
        new = [
            NewTopic(
                name,
                num_partitions=1 if name == learner else settings.partitions,
                replication_factor=settings.replication,
            )
            for name in wanted
            if name in missing
        ]
        for future in (admin.create_topics(new, request_timeout=settings.timeout_s) if new else {}).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process has just created it
                    raise
        while missing := set(wanted) - (visible := _partitions(admin, settings)).keys():
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{settings.bootstrap_servers} does not show the topic {min(missing)} within "
                    f"{settings.timeout_s:g} s of its creation: raise kafka.timeout_s or create it by hand"
                )
            time.sleep(0.02)
    if visible.get(learner, 1) != 1 and learner in wanted:
        raise BrokerError(
            f"the topic {learner} has {visible[learner]} partitions, so several learners would work at once: "
            "choose another kafka.topic_prefix"
        )


def _has_consumer_protocol(settings: KafkaSettings) -> bool:
    admin = connection.create(AdminClient, settings, {}, None)
    try:
        brokers = admin.list_topics(timeout=settings.timeout_s).brokers
        resource = ConfigResource(ConfigResource.Type.BROKER, str(min(brokers)))
        (future,) = admin.describe_configs([resource], request_timeout=settings.timeout_s).values()
        found = {name: entry.value for name, entry in future.result().items()}
    except (KafkaException, ValueError) as error:  # not permitted, or not supported by the broker
        connection.logger.info("group protocol: %s", error)
        return False
    timeout = found.get("group.consumer.session.timeout.ms")
    return (
        "consumer" in found.get("group.coordinator.rebalance.protocols", "").split(",")
        and timeout is not None
        and int(timeout) <= settings.session_timeout_ms
    )


def _partitions(admin: AdminClient, settings: KafkaSettings) -> dict[str, int]:
    """Number of partitions of each existing topic."""
    topics = admin.list_topics(timeout=settings.timeout_s).topics
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None and topic.partitions}
