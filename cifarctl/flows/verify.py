"""``cifarctl verify-stream``: is every input of a stream answered exactly once, and in order?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from cifarctl import events
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients, identity
from cifarctl.stream.browse import Place
from cifarctl.stream.clients import Topics
from cifarctl.stream.ledger import Answer, Findings, Partition, digest
from cifarctl.stream.patience import Patience

PROGRESS = 20_000  # records between two VerifyProgress events
AGAIN_S = 0.2  # between two looks at the offsets that serve commits after its answers


def verify(kafka: KafkaSettings) -> Iterator[events.VerifyEvent]:
    """Compare inputs, answers and committed offsets of the group `kafka.group_id`; ends with a VerifyResult.

    Every input record below the committed offset, as read_committed delivers it, must be answered exactly once, by a
    prediction or a dead letter; records that `serve --from` has skipped need no answer. An answer must match the record
    at its source offset: a prediction has that image's id, a dead letter its bytes. No answer may exist for a record
    that is absent or beyond the committed offset. The committed offset must belong to this topic and lie within it. In
    each pair of input and output partition, answers follow the order of the inputs. Records that retention or
    compaction has removed since they were answered are counted, not judged. `serve` may be running. A group whose
    offsets were moved back on purpose has duplicate answers.

    Raises:
        BrokerError: no broker answers, a topic is missing, or a transaction stays open.
    """
    audit = _Audit(kafka)
    yield from audit.read_inputs()
    yield from audit.read_answers()
    yield audit.result()


class _Audit:
    """One run: the state at its beginning, what it has read, and what it has found."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.kafka, self.topics = kafka, Topics.of(kafka.topic_prefix)
        self.outputs = (self.topics.predictions, self.topics.dead_letters)
        self.places = self._places()
        for topic in self.outputs:
            browse.await_decided(kafka, topic)
        self.topic_id = self._topic_id()
        #: The embedded broker reports other bounds, ages nothing out and compacts nothing.
        self.embedded = clients.check(kafka).embedded
        self.bounds = self._bounds(self.topics.images)
        everything = (self.topics.images, *self.outputs)
        self.compacted = {} if self.embedded else browse.compacted(kafka, everything)
        self.found = Findings()
        self.inputs: dict[int, Partition] = {
            number: Partition(*bounds, self.places.get(number)) for number, bounds in self.bounds.items()
        }
        self.counted = dict.fromkeys(self.outputs, 0)
        self.aged_out = self.compacted_away = 0
        #: Answers beyond the offsets that were committed when the audit began.
        self.early: list[tuple[int, int, str]] = []
        #: Of each input partition, output topic and partition: the first and the last offset answered there.
        self.first: dict[tuple[int, str, int], int] = {}
        self.last: dict[tuple[int, str, int], int] = {}
        #: Under compaction, answers are known by these digests: of ids, and of keys.
        self.answered_ids: set[int] = set()
        self.answered_keys: set[int] = set()

    def read_inputs(self) -> Iterator[events.VerifyEvent]:
        images = self.topics.images
        for read, record in enumerate(browse.read(self.kafka, images), 1):
            number = record.partition
            if number not in self.inputs:
                self.inputs[number] = Partition(record.offset, record.offset, self.places.get(number))
            self.inputs[number].deliver(record)
            if read % PROGRESS == 0:
                yield events.VerifyProgress(images, read)
        for number, (oldest, _) in self._bounds(images).items():  # more may have aged out while it was read
            if number in self.inputs:
                self.inputs[number].oldest = oldest

    def read_answers(self) -> Iterator[events.VerifyEvent]:
        for topic in self.outputs:
            for read, record in enumerate(browse.read(self.kafka, topic), 1):
                if read % PROGRESS == 0:
                    yield events.VerifyProgress(topic, read)
                if topic == self.topics.predictions:
                    answer = Answer.of_prediction(record)
                else:
                    answer = Answer.of_letter(record, self.topics.images)
                if answer is not None:
                    self._book(answer, topic, record.partition, record.offset)
                    if self.compacted.get(topic) and answer.of_body:
                        self.answered_keys.add(digest(record.key))
                    elif self.compacted.get(topic):
                        self.answered_ids.add(answer.digest)

    def result(self) -> events.VerifyResult:
        later = self._later()
        images, found = self.topics.images, self.found
        if None not in (self.topic_id, now := self._topic_id()) and now != self.topic_id:
            found.add("other_topic", f"{images} was deleted and created again while it was read: verify again")
        for number, offset, where in self.early:
            if offset >= _offset(later, number):
                found.add("beyond", f"answer beyond the committed offset: {where}")
        for number, place in self.places.items():
            self._judge_place(number, place, later.get(number, place))
        inside = unread = 0
        for number, partition in self.inputs.items():
            below = bisect_left(partition.offsets, partition.committed)
            inside += below
            unread += len(partition.offsets) - below
            for index, times in enumerate(partition.answers):
                if times > 1:
                    found.add("duplicated", f"{times} answers to {images}[{number}]@{partition.offsets[index]}")
        skipped, unverifiable = self._judge_unanswered()
        return events.VerifyResult(
            topic=images,
            group=self.kafka.group_id,
            committed={str(number): place.offset for number, place in sorted(self.places.items())},
            inputs=inside - skipped,
            predictions=self.counted[self.topics.predictions],
            dead_letters=self.counted[self.topics.dead_letters],
            missing=found.counts["missing"],
            duplicated=found.counts["duplicated"],
            beyond=found.counts["beyond"],
            out_of_order=found.counts["out_of_order"],
            exact=not found.examples,
            examples=found.examples,
            mismatched=found.counts["mismatched"],
            aged_out_unread=found.counts["aged_out_unread"],
            beyond_end=found.counts["beyond_end"],
            other_topic=found.counts["other_topic"],
            skipped=skipped,
            unread=unread,
            aged_out=self.aged_out,
            compacted=self.compacted_away,
            unverifiable=unverifiable,
            notes=list(self._notes()),
        )

    def _book(self, answer: Answer, topic: str, output: int, at: int) -> None:
        """Record an answer at offset `at` of the output partition `output` of `topic`."""
        number, offset = answer.number, answer.offset
        where = f"{topic}[{output}]@{at} for {self.topics.images}[{number}]@{offset}"
        partition = self.inputs.get(number)
        index = partition.find(offset) if partition is not None else None
        pair = number, topic, output
        self.first.setdefault(pair, offset)
        if partition is not None and index is not None:
            self.counted[topic] += 1
            if not partition.same(index, answer):
                self.found.add("mismatched", f"the answer is not about the message at this offset: {where}")
                return
            partition.answer(index)
        elif partition is not None and offset < partition.oldest:
            self.aged_out += 1
            if offset == self.last.get(pair):  # no longer in the ledger
                self.found.add("duplicated", f"another answer: {where}")
                return
        elif partition is not None and offset < partition.end and self.compacted.get(self.topics.images):
            self.compacted_away += 1
            if offset == self.last.get(pair):
                self.found.add("duplicated", f"another answer: {where}")
                return
        else:
            self.counted[topic] += 1
            if partition is not None and offset < partition.end:
                self.found.add("beyond", f"answer to an input that does not exist: {where}")
        if offset >= _offset(self.places, number):
            self.early.append((number, offset, where))
        if offset <= self.last.get(pair, -1):
            self.found.add("out_of_order", f"answer out of order: {where}")
        self.last[pair] = offset

    def _judge_place(self, number: int, place: Place, later: Place) -> None:
        """Whether the group's next offset is of this topic, and within it."""
        where = f"{self.topics.images}[{number}]"
        if place.mark.of_another(self.topic_id):
            self.found.add(
                "other_topic",
                f"the committed offset {place.offset} of {where} belongs to an earlier topic of that name, now deleted",
            )
            return
        partition = self.inputs.get(number)
        if partition is None:
            return
        oldest = self.bounds[number][0] if number in self.bounds else partition.oldest
        if later.offset < oldest:
            gone = oldest - later.offset
            story = f"{gone} messages of {where} have aged out unread: committed {later.offset}, the oldest is {oldest}"
            self.found.add("aged_out_unread", story, gone)
        if place.offset > partition.end:
            story = f"the committed offset {place.offset} of {where} is beyond its end, {partition.end}"
            self.found.add("beyond_end", story)

    def _judge_unanswered(self) -> tuple[int, int]:
        """How many inputs without an answer were skipped, and of how many the answer may be gone; others are missing.

        Retention removes the first answers of an output partition, so that it can have removed those to inputs before
        the first one that is left there, and no more than are gone. Compaction removes what a later answer under the
        same key replaces.
        """
        gone: dict[tuple[str, int], int] = {}
        for topic in self.outputs:
            gone |= {(topic, output): oldest for output, (oldest, _) in self._bounds(topic).items() if oldest > 0}
        skipped = replaced = 0
        perhaps: list[str] = []
        for number, partition in sorted(self.inputs.items()):
            # Before this offset there may have been answers that are gone; None where that may be anywhere.
            firsts = [self.first.get((number, *output)) for output in gone]
            limit = None if None in firsts else max((first for first in firsts if first is not None), default=-1)
            for offset, image_id, key in partition.unanswered():
                where = f"no answer to {self.topics.images}[{number}]@{offset}"
                if partition.skipped(offset):
                    skipped += 1
                elif image_id in self.answered_ids or key in self.answered_keys:
                    replaced += 1
                elif limit is None or offset < limit:
                    perhaps.append(where)
                else:
                    self.found.add("missing", where)
        surplus = len(perhaps) - sum(gone.values())
        if surplus > 0:
            self.found.add("missing", f"{perhaps[-1]}; fewer answers have aged out than are missing", surplus)
        return skipped, replaced + len(perhaps) - max(0, surplus)

    def _notes(self) -> Iterator[str]:
        """Notes on the limits of the comparison."""
        if self.places and self.topic_id is None:
            yield "the broker reports no topic ids: only image ids can reveal that a topic was created again"
        elif any(place.mark.topic_id is None for place in self.places.values()):
            yield "the committed offsets carry no topic id: only image ids can reveal that the topic was created again"
        for topic in (self.topics.images, *self.outputs):
            if not self.embedded and topic not in self.compacted:
                yield f"cleanup.policy of {topic} cannot be read, so delete is assumed: grant DescribeConfigs on it"
        for topic in self.outputs:
            if self.compacted.get(topic):
                yield f"{topic} is compacted: of several answers under one key only the last can be checked"

    def _later(self) -> Mapping[int, Place]:
        """The group's places by now: serve may have gone on, and at-least-once delivery commits after the answers."""
        patience = Patience(self.kafka.timeout_s)
        while True:
            later = self._places()
            behind = any(offset >= _offset(later, number) for number, offset, _ in self.early)
            if not behind or not patience.again(AGAIN_S):
                return later

    def _places(self) -> Mapping[int, Place]:
        return browse.places(self.kafka, self.topics.images, self.kafka.group_id, browse.MAX_OPEN_S)

    def _topic_id(self) -> str | None:
        return identity.topic_ids(self.kafka, [self.topics.images]).get(self.topics.images)

    def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """First offset and last stable offset of each partition."""
        return {} if self.embedded else browse.bounds(self.kafka, topic, isolation="read_committed")


def _offset(places: Mapping[int, Place], number: int) -> int:
    return places[number].offset if number in places else 0
