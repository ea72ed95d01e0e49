"""The labels topic: ``{"id": str, "label": int}`` under the image's key, and a reader of it outside any group."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, connection
from cifarctl.stream.fields import json_id, json_label, key_id
from cifarctl.stream.records import DeadLetter, Record, Refused, record_of

STAGE = "label"

LOOK_INTERVAL_S = 2.0  # between two looks for the topic and for new partitions of it
LOOK_TIMEOUT_S = 2.0
WAIT_S = 0.5  # for the first message of a batch, and so also for being told to close
READ = 500  # messages of a batch
MOST_UNREAD = 20_000  # labels that wait to be taken; then the reader waits too


@dataclass(frozen=True)
class Labels:
    """The good records of a batch, in the order they were read; `labels` (B,) int64."""

    ids: list[str]
    labels: npt.NDArray[np.int64]
    records: list[Record]


def encode_label(id: str, label: int) -> bytes:
    """The value of one message; its key is the id."""
    return orjson.dumps({"id": id, "label": label})


def decode(records: Sequence[Record], *, classes: int) -> tuple[Labels, list[DeadLetter]]:
    """Sort a batch into labels and dead letters: each record into exactly one of them, both in reading order.

    Args:
        records: what was read, any bytes.
        classes: labels are 0 to `classes` - 1.
    """
    ids: list[str] = []
    labels: list[int] = []
    good: list[Record] = []
    letters: list[DeadLetter] = []
    for record in records:
        try:
            id, label = _parse(record, classes)
        except Refused as error:
            letters.append(DeadLetter(record, STAGE, error.error, error.message))
            continue
        ids.append(id)
        labels.append(label)
        good.append(record)
    return Labels(ids, np.array(labels, dtype=np.int64), good), letters


class LabelReader:
    """Reads the whole labels topic in a thread of its own: a context manager.

    It belongs to no group, so each of many readers gets every label, and it commits nothing. It begins with what is
    younger than `wait_s` seconds. A topic that is absent is looked for now and then and never created; a broker that is
    away is waited for. What is no label is passed over: to say so is the learner's part.
    """

    def __init__(self, settings: KafkaSettings, *, classes: int, wait_s: float) -> None:
        """Nothing is opened yet; labels are 0 to `classes` - 1."""
        self._settings, self._classes, self._wait_s = settings, classes, wait_s
        self._topic = clients.Topics.of(settings.topic_prefix).labels
        self._known: set[int] = set()
        self._unread: deque[tuple[str, int]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="label-reader", daemon=True)
        self.last_error: str | None = None

    def __enter__(self) -> LabelReader:
        """Open the client and start reading.

        Raises:
            SettingsError: librdkafka refuses an option.
        """
        self._consumer: Consumer = clients.consumer(
            self._settings,
            self._settings.group_id,  # never joined, but brokers with permissions want to know it
            on_error=self._note,
            **{
                "auto.offset.reset": "earliest",  # some labels have aged out: the later ones are as good
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

    def read(self) -> list[tuple[str, int]]:
        """The (id, label) pairs that have come in since the last call; never waits."""
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
        """Begin to read the partitions that are new."""
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
        """The offset of the first label that is young enough."""
        since_ms = int((time.time() - self._wait_s) * 1000)
        # The end before the question: where nothing is young enough, all that comes from now on is wanted.
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=LOOK_TIMEOUT_S)
        wanted = [TopicPartition(self._topic, number, since_ms)]
        try:
            (found,) = self._consumer.offsets_for_times(wanted, timeout=LOOK_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() in connection.UNREACHABLE:
                raise
            return OFFSET_BEGINNING  # the broker knows no times
        if found.error is not None:
            return OFFSET_BEGINNING
        return found.offset if found.offset >= 0 else end

    def _take(self) -> None:
        if not self._known:
            self._consumer.poll(0)  # serves the callbacks; without an assignment it brings no message
        if not self._known or len(self._unread) >= MOST_UNREAD:
            self._stop.wait(WAIT_S)
            return
        messages = self._consumer.consume(1, WAIT_S)
        if messages:
            messages += self._consumer.consume(READ - 1, 0)
        found, _ = decode(list(filter(None, map(self._record, messages))), classes=self._classes)
        self._unread.extend(zip(found.ids, found.labels.tolist(), strict=True))

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            return record_of(message)
        self._note(error)
        return None

    def _note(self, error: KafkaError) -> None:
        connection.logger.info("labels: %s", error)
        self.last_error = error.str()


def _parse(record: Record, classes: int) -> tuple[str, int]:
    if record.value is None:
        raise Refused("NullValue", "the message has no value; a label needs one")
    try:
        body = orjson.loads(record.value)
    except ValueError as error:
        raise Refused("NotJson", f"{len(record.value)} bytes that are not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refused("NotAnObject", f"the JSON is a {type(body).__name__}, not an object with id and label")
    if (label := body.get("label")) is None:
        raise Refused("MissingLabel", "the JSON has no label")
    return _id(record, body.get("id")), json_label(label, classes)


def _id(record: Record, value: object) -> str:
    """The id of the body, else the key."""
    if value not in (None, ""):
        return json_id(value)
    if not record.key:
        raise Refused("MissingId", "neither the JSON nor the key says which image it is the label of")
    return key_id(record.key)
