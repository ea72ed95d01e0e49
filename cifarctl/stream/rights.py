"""The rights of the configured user on topics and groups; asks the broker, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection
from cifarctl.stream.clients import Topics


@dataclass(frozen=True)
class Rights:
    """Partitions of the topics that exist and may be described, absent topics, and missing rights."""

    topics: dict[str, int]
    absent: list[str]
    missing: list[str]  # for people: "Read on the topic cifar.images"


def examine(settings: KafkaSettings) -> Rights:
    """Compare the rights that produce, serve and retrain need with those that the user has.

    The broker cannot be asked for rights on absent topics or on transactional ids.

    Raises:
        BrokerError: no answer.
        SettingsError: librdkafka refuses an option.
    """
    admin: AdminClient = connection.create(AdminClient, settings, {}, None)
    wanted = _needed(settings)
    found, absent, missing = {}, [], []
    for name, needed in wanted.topics.items():
        answer = _ask(settings, admin.describe_topics, TopicCollection([name]), f"cannot describe {name}")
        if answer == KafkaError.UNKNOWN_TOPIC_OR_PART:
            absent.append(name)
        elif answer in connection.FORBIDDEN:
            missing += [f"{right} on the topic {name}" for right in ("Describe", *needed)]
        else:
            found[name] = len(answer.partitions)
            missing += [f"{right} on the topic {name}" for right in _lacking(answer, needed)]
    for name in wanted.groups:
        answer = _ask(settings, admin.describe_consumer_groups, [name], f"cannot describe the group {name}")
        denied = answer in connection.FORBIDDEN
        missing += [f"{right} on the group {name}" for right in (("Read",) if denied else _lacking(answer, ("Read",)))]
    return Rights(found, absent, missing)


def ensure_topics(settings: KafkaSettings, needed: Mapping[str, Sequence[str]]) -> None:
    """`clients.ensure_topics`, after checking these rights on the topics: ``{"cifar.images": ["Read"]}``.

    Raises:
        BrokerError: as `clients.ensure_topics`, or a right is missing; names it and its topic.
        SettingsError: librdkafka refuses an option.
    """
    require(settings, needed)
    clients.ensure_topics(settings, needed)


def require(settings: KafkaSettings, needed: Mapping[str, Sequence[str]]) -> None:
    """Check that the user has all these rights; absent topics are ignored.

    Raises:
        BrokerError: no answer, or a right is missing; names it and its topic.
        SettingsError: librdkafka refuses an option.
    """
    if missing := lacking(settings, needed):
        raise BrokerError(
            f"{settings.bootstrap_servers} does not permit {', '.join(missing)}; grant the user these rights, or set "
            "kafka.topic_prefix to topics of yours"
        )


def lacking(settings: KafkaSettings, needed: Mapping[str, Sequence[str]]) -> list[str]:
    """The missing rights, for people: "Write on the topic cifar.predictions".

    A topic without any rights may be absent: the broker does not say.

    Raises:
        BrokerError: no answer.
        SettingsError: librdkafka refuses an option.
    """
    admin: AdminClient = connection.create(AdminClient, settings, {}, None)
    missing: list[str] = []
    for name, rights in needed.items():
        answer = _ask(settings, admin.describe_topics, TopicCollection([name]), f"cannot describe {name}")
        if answer in connection.FORBIDDEN:
            missing.append(f"{_listed(['Describe', *rights])} on the topic {name}")
        elif answer != KafkaError.UNKNOWN_TOPIC_OR_PART and (absent := _lacking(answer, tuple(rights))):
            missing.append(f"{_listed(absent)} on the topic {name}")
    return missing


def _listed(rights: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(rights[:-1]), rights[-1])))


def _ask(settings: KafkaSettings, method: Callable[..., dict[Any, Future[Any]]], about: Any, doing: str) -> Any:
    """The description, or an error code that is an answer too."""
    options = {"include_authorized_operations": True, "request_timeout": settings.timeout_s}
    try:  # a broker that has never had a group creates the topic for them first
        return connection.patiently(lambda: next(iter(method(about, **options).values())).result(), settings.timeout_s)
    except KafkaException as error:
        code = error.args[0].code()
        if code in connection.FORBIDDEN or code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return code
        raise connection.explain(settings, doing, error.args[0]) from None


@dataclass(frozen=True)
class _Needed:
    topics: dict[str, tuple[str, ...]]
    groups: tuple[str, ...]


def _needed(settings: KafkaSettings) -> _Needed:
    names = Topics.of(settings.topic_prefix)
    return _Needed(
        topics={
            names.images: ("Read", "Write"),
            names.labels: ("Read", "Write"),
            names.predictions: ("Read", "Write"),
            names.dead_letters: ("Write",),
            names.learner: ("Read", "Write"),
        },
        groups=(settings.group_id, f"{settings.group_id}.learner", f"{settings.topic_prefix}.active-learner"),
    )


def _lacking(answer: Any, needed: tuple[str, ...]) -> list[str]:
    """The rights that the broker does not list; none if it lists no rights at all, like the embedded one."""
    permitted = {operation.name for operation in answer.authorized_operations or ()}
    return [right for right in needed if right.upper() not in permitted] if permitted else []
