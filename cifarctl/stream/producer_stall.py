"""Noticing a producer that stands still: messages wait, the broker answers, and nothing is acknowledged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from confluent_kafka import KafkaException

from cifarctl.stream.sender import Sender

#: Seconds without an acknowledgement from a broker that answers: longer than a change of leaders, and than what
#: librdkafka waits for a request (30 s) before it sends it again.
PRODUCER_STALL_S = 60.0
ASK_INTERVAL_S = 5.0
LOOK_S = 0.5  # for an answer


class ProducerStall:
    """Gives the messages of a producer that stands still to a new one.

    After a broker was killed, librdkafka may leave partitions to no connection although they have a leader again
    (issue 5430); that lasts for the life of the client.
    """

    def __init__(self, sender: Sender, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`sender` sends to `topic`; `clock` tells seconds."""
        self._sender, self._topic, self._clock = sender, topic, clock
        self._settled = 0  # messages whose fate was known at the last look
        self._stood_s = 0.0  # for which the broker has answered while nothing moved
        self._ask_at = -math.inf

    def look(self) -> int:
        """To be called now and then; how many messages a new client has just been given, 0 while all is well."""
        settled, now = self._sender.sent - self._sender.pending, self._clock()
        if settled > self._settled or not self._sender.pending:
            self._settled, self._stood_s = max(settled, self._settled), 0.0
            return 0
        if now < self._ask_at:
            return 0
        self._ask_at = now + ASK_INTERVAL_S
        if self._answers():  # an outage does not count, nor does it make up for what was counted before
            self._stood_s += ASK_INTERVAL_S
        if self._stood_s < PRODUCER_STALL_S:
            return 0
        self._stood_s = 0.0
        return self._sender.renew()

    def _answers(self) -> bool:
        """Whether the broker answers, and each partition of the topic has a leader."""
        try:
            topic = self._sender.producer.list_topics(self._topic, timeout=LOOK_S).topics[self._topic]
        except (KafkaException, KeyError):
            return False
        return topic.error is None and all(place.leader >= 0 for place in topic.partitions.values())
