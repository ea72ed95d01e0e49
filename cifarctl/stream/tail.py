"""Following a topic, outside any group."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection
from cifarctl.stream.records import Record, record_of

ItemT = TypeVar("ItemT")

LOOK_INTERVAL_S = 2.0  # between two looks for the topic and for new partitions of it
LOOK_TIMEOUT_S = 2.0
WAIT_S = 0.5  # for the first message of a batch, so closing may take as long
BATCH = 500  # messages
MAX_UNREAD = 20_000  # items that wait to be taken; beyond that reading pauses


class Tail(Generic[ItemT]):
    """Reads all partitions of a topic in a thread of its own, starting with recent records: a context manager.

    It belongs to no group, so every reader gets everything, and it commits nothing. An absent topic is looked for now
    and then, and never created; a broker that is away is waited for.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        decode: Callable[[Sequence[Record]], Iterable[ItemT]],
        since_s: float,
    ) -> None:
        """Start with records younger than `since_s` seconds, and decode them by `decode`. Opens nothing yet."""
        self._settings, self._topic, self._decode, self._since_s = settings, topic, decode, since_s
        self._known: set[int] = set()
        self._unread: deque[ItemT] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tail-{topic}", daemon=True)
        self.last_error: str | None = None

    def __enter__(self) -> Tail[ItemT]:
        """Open the client and start reading.

        Raises:
            SettingsError: librdkafka refuses an option.
        """
        self._consumer: Consumer = clients.consumer(
            self._settings,
            self._settings.group_id,  # never joined, but brokers with access control ask for it
            on_error=self._note,
            **{
                "auto.offset.reset": "earliest",  # if records have aged out, go on with the oldest
                "enable.partition.eof": False,
                "fetch.wait.max.ms": 500,
                "queued.max.messages.kbytes": 4096,
            },
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def read(self) -> list[ItemT]:
        """The items since the last call; never waits."""
        unread = self._unread
        return [unread.popleft() for _ in range(len(unread))]

    def _run(self) -> None:
        look_at = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() >= look_at:
                    self._look()
                    look_at = time.monotonic() + LOOK_INTERVAL_S
                self._take()
            except KafkaException as error:
                self._note(error.args[0])
                look_at = time.monotonic() + LOOK_INTERVAL_S
                self._stop.wait(WAIT_S)
        self._consumer.close()

    def _look(self) -> None:
        """Start to read new partitions."""
        topic = self._consumer.list_topics(self._topic, timeout=LOOK_TIMEOUT_S).topics[self._topic]
        self.last_error = None
        if topic.error is not None:
            if topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._note(topic.error)
            return
        numbers = sorted(topic.partitions.keys() - self._known)
        if numbers:
            self._consumer.incremental_assign([TopicPartition(self._topic, n, self._start(n)) for n in numbers])
            self._known.update(numbers)

    def _start(self, number: int) -> int:
        """The offset of the first record that is recent enough."""
        since_ms = int((time.time() - self._since_s) * 1000)
        # Look up the end first: if no record is recent enough, start with those that come from now on.
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=LOOK_TIMEOUT_S)
        wanted = [TopicPartition(self._topic, number, since_ms)]
        try:
            (found,) = self._consumer.offsets_for_times(wanted, timeout=LOOK_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() in connection.UNREACHABLE:
                raise
            return OFFSET_BEGINNING  # the broker does not support this query
        if found.error is not None:
            return OFFSET_BEGINNING
        return found.offset if found.offset >= 0 else end

    def _take(self) -> None:
        if not self._known:
            self._consumer.poll(0)  # serves the callbacks; without an assignment it returns no message
        if not self._known or len(self._unread) >= MAX_UNREAD:
            self._stop.wait(WAIT_S)
            return
        messages = self._consumer.consume(1, WAIT_S)
        if messages:
            messages += self._consumer.consume(BATCH - 1, 0)
        self._unread.extend(self._decode(list(filter(None, map(self._record, messages)))))

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            return record_of(message)
        self._note(error)
        return None

    def _note(self, error: KafkaError) -> None:
        connection.logger.info("%s: %s", self._topic, error)
        self.last_error = error.str()
