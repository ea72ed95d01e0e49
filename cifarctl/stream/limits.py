"""What a topic and the client take: how large a message may be, and whether it needs a key."""

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
#: A topic must take this: a prediction needs some 600 bytes, the smallest dead letter up to 800.
LEAST_BYTES = 1024
#: Seconds to ask for the limits, which are found out by trial too.
ASK_S = 2.0
TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
#: A message that the topic does not take as it is, and what was in one batch with it.
INVALID = {KafkaError.INVALID_RECORD, KafkaError._INVALID_DIFFERENT_RECORD}


class Demands(NamedTuple):
    """What a topic takes: batches of so many bytes at most, and, where it is compacted, only messages with a key."""

    most: int
    keyed: bool = False


class Limits:
    """The largest batch that each topic takes, in bytes, and whether it takes messages without a key.

    As the broker says, where it may be asked. Where it may not, or its word has changed meanwhile, a refusal tells that
    it is less: `refused` then tries half.
    """

    def __init__(self, ask: Callable[[], Mapping[str, Demands]] = dict, client: int = CLIENT_BYTES) -> None:
        """`ask` tells the demands of topics, as far as they can be known; `client` is what the client takes itself."""
        self._ask, self._client = ask, client
        told = ask()
        self._known = {topic: demands.most for topic, demands in told.items()}
        self._keyed = {topic for topic, demands in told.items() if demands.keyed}

    def of(self, topic: str) -> int:
        """Bytes of the largest batch for `topic`, and so of the largest message, as `sizes.wire_size` counts."""
        return min(self._known.get(topic, DEFAULT_BYTES), self._client)

    def keyed(self, topic: str) -> bool:
        """Whether `topic` takes only messages with a key."""
        return topic in self._keyed

    def require_keys(self, topic: str) -> None:
        """Take note that `topic` has refused a message without a key."""
        self._keyed.add(topic)

    @property
    def batch(self) -> int:
        """Bytes that a batch may have whatever topic it is for."""
        return min([self._client, CLIENT_BYTES, *self._known.values()])

    def refused(self, topic: str, size: int) -> bool:
        """Expect less after a batch of at most `size` bytes was too large; False: less than any topic must take."""
        before = min(self.of(topic), max(self.batch, size))
        if before <= LEAST_BYTES:
            return False
        told = self._ask().get(topic)
        now = before if told is None else told.most
        if now >= before:
            now = min(before, size) // 2
        self._known[topic] = max(now, LEAST_BYTES)
        return True

    def require(self, topics: Iterable[str]) -> None:
        """Refuse topics that take nothing that is worth sending.

        Raises:
            BrokerError: names the topic and its setting.
        """
        for topic in topics:
            if self.of(topic) < LEAST_BYTES:
                raise BrokerError(
                    f"{topic} takes {self.of(topic)} bytes at most, which is too little for any answer: raise its "
                    f"max.message.bytes, or kafka.options.message.max.bytes, to {LEAST_BYTES} or more"
                )


def of_topics(settings: KafkaSettings, topics: Sequence[str]) -> Limits:
    """The limits of `topics`, which the broker tells whoever has the right DescribeConfigs on them."""
    return Limits(lambda: _described(settings, topics), _of_client(settings))


def _of_client(settings: KafkaSettings) -> int:
    """Bytes of the largest message that the client queues at all; one larger than its queue would wait for ever."""
    given = options.numbers(settings)
    queue = given.get("queue.buffering.max.kbytes")
    return int(
        min(given.get("message.max.bytes", CLIENT_BYTES), CLIENT_BYTES if queue is None else queue * 1024, CLIENT_BYTES)
    )


def _described(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, Demands]:
    """The demands of those topics of which the broker tells.

    A batch has `max.message.bytes` at most, or `segment.bytes` where a segment is smaller; the `cleanup.policy` of a
    topic that wants keys is compact, maybe among others.
    """
    found: dict[str, Demands] = {}
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
            most = min(int(entries[name].value) for name in ("max.message.bytes", "segment.bytes"))
            found[resource.name] = Demands(most, "compact" in entries["cleanup.policy"].value)
        except (KafkaException, KeyError, TypeError, ValueError) as error:  # not permitted, or nobody who knows
            connection.logger.info("limits of %s: %s", resource.name, error)
    return found
