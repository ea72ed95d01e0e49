"""Messages that came back from the client undelivered, and whether and how to send them again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, Protocol

from confluent_kafka import KafkaError

from cifarctl.stream import letters
from cifarctl.stream.limits import INVALID, TOO_LARGE, Limits
from cifarctl.stream.sink import Headers
from cifarctl.stream.sizes import wire_size

#: The broker may accept the message in a smaller batch or in another form.
REFUSED = TOO_LARGE | INVALID


class Form(Protocol):
    """Makes the message in a form that a topic accepts."""

    def __call__(self, limit: int, /, *, keyed: bool) -> letters.Message:
        """Key, value and headers: at most `limit` bytes, and with a key if it must be `keyed`."""
        ...


class Undelivered(NamedTuple):
    """A message that was not delivered, and how to make it in another form if there is one.

    `number` counts messages in the order in which they were first sent; delivery reports come in another order.
    """

    number: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    form: Form | None
    error: KafkaError

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return wire_size(self.key, self.value, self.headers)

    @property
    def lacks_key(self) -> bool:
        """Whether the topic refuses it for want of a key, and it can have one."""
        return self.error.code() == KafkaError.INVALID_RECORD and self.key is None and self.form is not None


class UndeliveredMessages:
    """Undelivered messages of one sender: those refused by the broker, and those to be sent again, in order."""

    def __init__(self, limits: Limits) -> None:
        """`limits` are lowered when topics refuse more than expected."""
        self._limits = limits
        self._refused: list[Undelivered] = []  # not yet judged
        self._resend: deque[Undelivered] = deque()

    def __len__(self) -> int:
        return len(self._refused) + len(self._resend)

    @property
    def refused(self) -> bool:
        """Whether the broker has refused messages that are not judged yet."""
        return bool(self._refused)

    def add_refused(self, message: Undelivered) -> None:
        """Add a message that the broker has refused for its batch or form."""
        self._refused.append(message)

    def add_unanswered(self, message: Undelivered) -> None:
        """Add a message that a broken client has left without an answer."""
        self._resend.append(message)

    def narrow(self) -> bool:
        """Lower the limits of topics that have refused messages; whether all of these can be sent in another form."""
        judged = self._judge()
        return bool(judged) and all(resend for _, resend in judged)

    def sort_out(self) -> list[Undelivered]:
        """Line up the refused messages that can be sent in another batch or form; the others, which have failed."""
        judged = self._judge()
        self._resend.extend(message for message, resend in judged if resend)
        self.restore_order()
        return [message for message, resend in judged if not resend]

    def restore_order(self) -> int:
        """Put the messages to be sent again into their first order; how many there are."""
        self._resend = deque(sorted(self._resend, key=attrgetter("number")))
        return len(self._resend)

    def resend(self, put: Callable[[Undelivered], bool]) -> None:
        """Pass messages to `put` in order, in the form that their topic accepts now, until it returns False."""
        while self._resend:
            message = self._resend[0]
            if message.form is not None:
                topic = message.topic
                key, value, headers = message.form(self._limits.of(topic), keyed=self._limits.keyed(topic))
                message = message._replace(key=key, value=value, headers=headers)
            if not put(message):
                return
            self._resend.popleft()

    def clear(self) -> list[Undelivered]:
        """Drop all messages, and return them."""
        dropped = [*self._refused, *self._resend]
        self._refused.clear()
        self._resend.clear()
        return dropped

    def _judge(self) -> list[tuple[Undelivered, bool]]:
        """The refused messages, each with whether another batch or form may be accepted; lowers limits first."""
        refused, self._refused = self._refused, []
        unexpected: Counter[str] = Counter()  # bytes by topic
        for message in refused:
            if message.error.code() in TOO_LARGE and message.size <= self._limits.of(message.topic):
                unexpected[message.topic] += message.size
            elif message.lacks_key:
                self._limits.require_keys(message.topic)
        expected = {topic: self._limits.of(topic) for topic in unexpected}
        lowered = {topic for topic, size in unexpected.items() if self._limits.refused(topic, size)}
        return [
            (message, message.topic in lowered and message.size <= expected[message.topic])
            if message.error.code() in TOO_LARGE
            else (message, message.lacks_key or message.error.code() == KafkaError._INVALID_DIFFERENT_RECORD)
            for message in refused
        ]
