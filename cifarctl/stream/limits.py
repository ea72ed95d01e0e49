"""The limits of topics and of the client: how large a message may be, and whether it needs a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource  # admin has it too, but not for type checkers

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import connection, options

#: The defaults of the broker's message.max.bytes, which is compared with a whole batch, and of librdkafka's.
DEFAULT_BYTES = 1_048_588
CLIENT_BYTES = 1_000_000
#: A topic must accept at least this: a prediction needs some 600 bytes, the smallest dead letter up to 800.
MIN_BYTES = 1024
#: Seconds to wait for the limits; without an answer they are found by trial.
ASK_S = 2.0
TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
#: A message that the topic does not accept in this form, and the rest of its batch.
INVALID = {KafkaError.INVALID_RECORD, KafkaError._INVALID_DIFFERENT_RECORD}


class TopicLimits(NamedTuple):
    """The largest batch of a topic in bytes, and whether each message needs a key, as in a compacted topic."""

    batch_bytes: int
    keyed: bool = False


class Limits:
    """The largest batch that each topic accepts, in bytes, and whether it requires keys.

    The broker is asked for them. If that is not permitted, or they have changed meanwhile, a refused batch shows that
    the limit is lower: `refused` then tries half.
    """

    def __init__(self, ask: Callable[[], Mapping[str, TopicLimits]] = dict, client: int = CLIENT_BYTES) -> None:
        """`ask` returns the limits of topics, if known; `client` is the limit of the client itself."""
        self._ask, self._client = ask, client
        found = ask()
        self._known = {topic: limits.batch_bytes for topic, limits in found.items()}
        self._keyed = {topic for topic, limits in found.items() if limits.keyed}

    def of(self, topic: str) -> int:
        """Bytes of the largest batch for `topic`, and so of the largest message, as `sizes.wire_size` counts."""
        return min(self._known.get(topic, DEFAULT_BYTES), self._client)

    def keyed(self, topic: str) -> bool:
        """Whether `topic` accepts only messages with a key."""
        return topic in self._keyed

    def require_keys(self, topic: str) -> None:
        """Record that `topic` has refused a message without a key."""
        self._keyed.add(topic)

    @property
    def batch(self) -> int:
        """Bytes of a batch that every topic accepts."""
        return min([self._client, CLIENT_BYTES, *self._known.values()])

    def refused(self, topic: str, size: int) -> bool:
        """Lower the limit after a batch of at most `size` bytes was too large; False if it is minimal already."""
        before = min(self.of(topic), max(self.batch, size))
        if before <= MIN_BYTES:
            return False
        found = self._ask().get(topic)
        now = before if found is None else found.batch_bytes
        if now >= before:
            now = min(before, size) // 2
        self._known[topic] = max(now, MIN_BYTES)
        return True

    def require(self, topics: Iterable[str]) -> None:
        """Refuse topics whose limit is too low for any answer.

        Raises:
            BrokerError: names the topic and its setting.
        """
        for topic in topics:
            if self.of(topic) < MIN_BYTES:
                raise BrokerError(
                    f"{topic} accepts at most {self.of(topic)} bytes, too few for any answer: raise its "
                    f"max.message.bytes, or kafka.options.message.max.bytes, to {MIN_BYTES} or more"
                )


def of_topics(settings: KafkaSettings, topics: Sequence[str]) -> Limits:
    """The limits of `topics`; the broker returns them to users with the right DescribeConfigs on them."""
    return Limits(lambda: _described(settings, topics), _of_client(settings))


def _of_client(settings: KafkaSettings) -> int:
    """Bytes of the largest message that the client queues; one larger than its queue would wait for ever."""
    given = options.numbers(settings)
    queue = given.get("queue.buffering.max.kbytes")
    return int(
        min(given.get("message.max.bytes", CLIENT_BYTES), CLIENT_BYTES if queue is None else queue * 1024, CLIENT_BYTES)
    )


def _described(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, TopicLimits]:
    """The limits of the topics that the broker describes.

    A batch has at most `max.message.bytes`, or `segment.bytes` if that is smaller; a topic whose `cleanup.policy`
    includes compact requires keys.
    """
    found: dict[str, TopicLimits] = {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    admin: AdminClient = connection.create(AdminClient, settings, {}, None)
    try:
        answers = admin.describe_configs(resources, request_timeout=min(ASK_S, settings.timeout_s))
    except KafkaException as error:
        connection.logger.info("limits of topics: %s", error)
        return found
    for resource, answer in answers.items():
        try:
            entries = answer.result()
            batch_bytes = min(int(entries[name].value) for name in ("max.message.bytes", "segment.bytes"))
            found[resource.name] = TopicLimits(batch_bytes, "compact" in entries["cleanup.policy"].value)
        except (KafkaException, KeyError, TypeError, ValueError) as error:  # not permitted, or not supported
            connection.logger.info("limits of %s: %s", resource.name, error)
    return found
