"""Noticing a stalled producer: messages wait, the broker answers, and nothing is acknowledged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from confluent_kafka import KafkaException

from cifarctl.stream.sender import Sender

#: Seconds without an acknowledgement from a broker that answers: longer than a change of leaders, and longer than
#: librdkafka waits for the answer to a request before it sends it again (30 s).
PRODUCER_STALL_S = 60.0
ASK_INTERVAL_S = 5.0
ANSWER_S = 0.5


class ProducerStall:
    """Gives the messages of a stalled producer to a new one.

    After a broker is killed, librdkafka may leave partitions without a connection although they have a leader again
    (issue 5430), for the rest of the client's life.
    """

    def __init__(self, sender: Sender, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`sender` sends to `topic`; `clock` returns seconds."""
        self._sender, self._topic, self._clock = sender, topic, clock
        self._settled = 0  # messages with a known outcome at the last look
        self._stalled_s = 0.0  # while the broker answered
        self._ask_at = -math.inf

    def look(self) -> int:
        """To be called now and then; returns how many messages a new client has just taken over, 0 if all is well."""
        settled, now = self._sender.sent - self._sender.pending, self._clock()
        if settled > self._settled or not self._sender.pending:
            self._settled, self._stalled_s = max(settled, self._settled), 0.0
            return 0
        if now < self._ask_at:
            return 0
        self._ask_at = now + ASK_INTERVAL_S
        if self._answers():  # an outage neither counts nor resets the count
            self._stalled_s += ASK_INTERVAL_S
        if self._stalled_s < PRODUCER_STALL_S:
            return 0
        self._stalled_s = 0.0
        return self._sender.renew()

    def _answers(self) -> bool:
        """Whether the broker answers, and each partition of the topic has a leader."""
        try:
            topic = self._sender.producer.list_topics(self._topic, timeout=ANSWER_S).topics[self._topic]
        except (KafkaException, KeyError):
            return False
        return topic.error is None and all(place.leader >= 0 for place in topic.partitions.values())
