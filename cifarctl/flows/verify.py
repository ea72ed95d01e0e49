"""The books of a stream: is every input answered exactly once, and in order?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cifarctl import events
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, codecs, letters
from cifarctl.stream.clients import Topics

PROGRESS = 20_000  # records between two VerifyProgress events
MOST_EXAMPLES = 10
SEEN_MANY = 255


@dataclass
class _Partition:
    """One input partition; a byte a record tells what was read and how often it was answered."""

    first: int
    delivered: bytearray = field(default_factory=bytearray)
    answers: bytearray = field(default_factory=bytearray)

    def deliver(self, offset: int) -> None:
        self.delivered += bytes(offset - self.first - len(self.delivered)) + b"\x01"
        self.answers += bytes(len(self.delivered) - len(self.answers))

    def after(self, offset: int) -> bool:
        """Whether it lies beyond all that was read."""
        return offset >= self.first + len(self.delivered)

    def answer(self, offset: int) -> bool:
        """Count an answer; False where no such input was delivered."""
        index = offset - self.first
        if not self.delivered[index]:
            return False
        self.answers[index] = min(SEEN_MANY, self.answers[index] + 1)
        return True


class _Findings:
    """How often something is wrong, and the first few places."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, kind: str, story: str) -> None:
        self.counts[kind] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(story)


def verify(kafka: KafkaSettings) -> Iterator[events.VerifyEvent]:
    """Compare inputs, answers and committed offsets of the group `kafka.group_id`; ends with a VerifyResult.

    Every input record below the committed offset, as read_committed delivers them, must appear exactly once in
    predictions and dead letters together. No answer may exist for what is not there or lies beyond the committed
    offset. Within a pair of input and output partition answers follow the order of the inputs. Answers to inputs that
    have aged out are passed over. May run while `serve` does; a group moved back on purpose has answered twice.

    Raises:
        BrokerError: no broker answers, a topic is not there, or a transaction stays open.
    """
    topics = Topics.of(kafka.topic_prefix)
    committed = browse.committed(kafka, topics.images, kafka.group_id, browse.LONGEST_OPEN_S)
    for topic in (topics.predictions, topics.dead_letters):
        browse.await_decided(kafka, topic)
    inputs: dict[int, _Partition] = {}
    for read, record in enumerate(browse.read(kafka, topics.images), 1):
        if record.partition not in inputs:
            inputs[record.partition] = _Partition(first=record.offset)
        inputs[record.partition].deliver(record.offset)
        if read % PROGRESS == 0:
            yield events.VerifyProgress(topics.images, read)

    counted: dict[str, int] = {}
    found = _Findings()
    answered: list[tuple[int, int, str]] = []  # those beyond what was committed when this began
    for topic in (topics.predictions, topics.dead_letters):
        counted[topic] = 0
        last: dict[tuple[int, int], int] = {}  # offset of the last answer by input and output partition
        for read, record in enumerate(browse.read(kafka, topic), 1):
            if read % PROGRESS == 0:
                yield events.VerifyProgress(topic, read)
            source = _source(record, topics)
            if source is None:
                continue
            number, offset = source
            place = f"{topic}[{record.partition}]@{record.offset} for {topics.images}[{number}]@{offset}"
            partition = inputs.get(number)
            if partition is not None and offset < partition.first:
                continue
            counted[topic] += 1
            if partition is None or partition.after(offset) or offset >= committed.get(number, 0):
                answered.append((number, offset, place))  # inputs and answers that have come since
            if partition is not None and not partition.after(offset) and not partition.answer(offset):
                found.add("beyond", f"answer to an input that is not there: {place}")
            if offset <= last.get((number, record.partition), -1):
                found.add("out_of_order", f"answer out of order: {place}")
            last[number, record.partition] = offset

    # Asked again, since serve may have gone on meanwhile.
    later = browse.committed(kafka, topics.images, kafka.group_id, browse.LONGEST_OPEN_S)
    for number, offset, place in answered:
        if offset >= later.get(number, 0):
            found.add("beyond", f"answer beyond the committed offset: {place}")
    inside = 0
    for number, partition in inputs.items():
        end = max(0, min(committed.get(number, 0) - partition.first, len(partition.delivered)))
        inside += sum(partition.delivered[:end])
        for index in range(len(partition.delivered)):
            place = f"{topics.images}[{number}]@{partition.first + index}"
            if index < end and partition.delivered[index] and not partition.answers[index]:
                found.add("missing", f"no answer to {place}")
            elif partition.answers[index] > 1:
                found.add("duplicated", f"{partition.answers[index]} answers to {place}")

    yield events.VerifyResult(
        topic=topics.images,
        group=kafka.group_id,
        committed={str(number): offset for number, offset in sorted(committed.items())},
        inputs=inside,
        predictions=counted[topics.predictions],
        dead_letters=counted[topics.dead_letters],
        missing=found.counts["missing"],
        duplicated=found.counts["duplicated"],
        beyond=found.counts["beyond"],
        out_of_order=found.counts["out_of_order"],
        exact=not found.examples,
        examples=found.examples,
    )


def _source(record: codecs.Record, topics: Topics) -> tuple[int, int] | None:
    """Partition and offset of the input that `record` answers; None where it answers none of the images topic."""
    if record.topic == topics.predictions:
        try:
            prediction = codecs.decode_prediction(record.value)
        except ValueError:  # somebody else has written that
            return None
        return prediction.partition, prediction.offset
    letter = letters.read_letter(record)
    if letter is None or letter.source is None or letter.source.topic != topics.images:
        return None
    return letter.source.partition, letter.source.offset
