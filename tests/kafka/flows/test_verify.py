"""What `verify-stream` makes of topics that are wrong on purpose, and of those that only look so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from apache_kafka import ApacheKafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from fixtures_kafka import own_settings
from helpers import cifarctl
from processes import until

from cifarctl import events
from cifarctl.flows.verify import verify
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.identity import Mark, topic_ids
from cifarctl.stream.letters import dead_letter_message
from cifarctl.stream.positions import Start, move
from cifarctl.stream.records import DeadLetter, Record
from cifarctl.stream.sender import Sender

IMAGE = bytes(3072)


class Stream:
    """Topics of one partition each, filled directly; `build` are steps of a story."""

    def __init__(self, kafka: KafkaSettings, *, policy: str = "delete", outputs: str = "delete") -> None:
        self.kafka, self.topics = kafka, clients.Topics.of(kafka.topic_prefix)
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        self.create({self.topics.images: policy, self.topics.predictions: outputs, self.topics.dead_letters: outputs})

    def create(self, policies: dict[str, str]) -> None:
        quick = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
        new = [
            NewTopic(name, 1, 1, config={"cleanup.policy": policy} | (quick if policy == "compact" else {}))
            for name, policy in policies.items()
        ]
        for future in self.admin.create_topics(new).values():
            future.result()
        clients.ensure_topics(self.kafka, policies)

    def images(self, ids: Sequence[str], end: str | None = None) -> None:
        """Images under these ids; in a transaction that ends with `end`, commit or abort."""
        sender = Sender(self.kafka, transactional_id=None if end is None else f"{self.kafka.topic_prefix}.test")
        if end is not None:
            sender.producer.init_transactions(30)
            sender.producer.begin_transaction()
        for image_id in ids:
            sender.enqueue(self.topics.images, image_id.encode(), IMAGE, [("id", image_id.encode())])
        assert sender.flush(30)
        if end is not None:
            getattr(sender.producer, f"{end}_transaction")(30)

    def predict(self, places: Sequence[tuple[int, str]], partition: int = 0) -> None:
        """A prediction for each offset and id."""
        body = {"label_predicted": 0, "class": "cat", "confidence": 1.0, "label": None, "correct": None}
        body |= {"model_version": 1, "model_sha256": "ab", "produced_at": 0, "predicted_at": 0}
        sender = Sender(self.kafka)
        for offset, image_id in places:
            value = body | {"id": image_id, "source": {"partition": partition, "offset": offset}}
            sender.send(self.topics.predictions, image_id.encode(), orjson.dumps(value))
        sender.close(30)

    def refuse(self, offset: int, value: bytes = IMAGE) -> None:
        """A dead letter."""
        record = Record(self.topics.images, 0, offset, -1, b"key", value, ())
        sender = Sender(self.kafka)
        sender.send(self.topics.dead_letters, *dead_letter_message(DeadLetter(record, "decode", "Bad", "bad")))
        sender.close(30)

    def commit(self, offset: int, mark: Mark | None = None, partition: int = 0) -> None:
        topic = self.topics.images
        metadata = str(Mark(topic_ids(self.kafka, [topic])[topic]) if mark is None else mark)
        client = clients.consumer(self.kafka, self.kafka.group_id)
        client.commit(offsets=[TopicPartition(topic, partition, offset, metadata=metadata)], asynchronous=False)
        client.close()

    def age(self, topic: str, before: int) -> None:
        for future in self.admin.delete_records([TopicPartition(topic, 0, before)]).values():
            future.result()

    def remake(self) -> None:
        """Delete the images topic and make it anew."""
        (deleted,) = self.admin.delete_topics([self.topics.images]).values()
        deleted.result()
        until(lambda: self.topics.images not in clients.partition_counts(self.kafka))
        self.create({self.topics.images: "delete"})

    def compact(self, topic: str, left: int) -> None:
        """Wait until the cleaner has left so many records of what was there."""
        filler = Sender(self.kafka)

        def cleaned() -> bool:
            filler.send(topic, b"filler", b"")  # the last segment is never cleaned
            filler.flush(30)
            return sum(record.key != b"filler" for record in browse.read(self.kafka, topic)) == left

        until(cleaned)
        filler.close(30)

    def audit(self) -> events.VerifyResult:
        *_, result = verify(self.kafka)
        assert isinstance(result, events.VerifyResult)
        return result


def ids(count: int, start: int = 0) -> list[str]:
    return [f"image-{number}" for number in range(start, start + count)]


def answered(stream: Stream, count: int = 20, *, but: Sequence[int] = ()) -> None:
    """Images, their predictions in order, and the group's offset behind them."""
    stream.images(ids(count))
    stream.predict([(number, name) for number, name in enumerate(ids(count)) if number not in but])
    stream.commit(count)


def doubled(stream: Stream) -> None:
    answered(stream)
    stream.predict([(19, "image-19")])


def unasked(stream: Stream) -> None:
    answered(stream, but=[7])
    stream.predict([(7, "nobody-sent-this")])


def unordered(stream: Stream) -> None:
    answered(stream, but=[7])
    stream.predict([(7, "image-7")])


def both(stream: Stream) -> None:
    answered(stream)
    stream.refuse(3)


def another_letter(stream: Stream) -> None:
    answered(stream, but=[19])
    stream.refuse(19, b"of a former topic")


def anew_longer(stream: Stream) -> None:
    """Deleted, made anew and filled beyond the old offset: what was answered is of the former one."""
    answered(stream, 10)
    stream.remake()
    stream.images(ids(15, start=100))
    stream.predict([(number, f"image-{100 + number}") for number in range(10, 15)])
    stream.commit(15)


def anew_behind_its_mark(stream: Stream) -> None:
    """The same ids at the same offsets: only the topic's id tells."""
    mark = Mark(topic_ids(stream.kafka, [stream.topics.images])[stream.topics.images])
    stream.remake()
    answered(stream)
    stream.commit(20, mark)


def beyond_the_end(stream: Stream) -> None:
    answered(stream)
    stream.commit(500)


def aged_unread(stream: Stream) -> None:
    answered(stream)
    stream.images(ids(10, start=20))
    stream.age(stream.topics.images, 25)


def aborted_predicted(stream: Stream) -> None:
    stream.images(ids(5), "commit")  # its mark is offset 5
    stream.images(ids(5, start=5), "abort")
    stream.predict([*enumerate(ids(5)), (6, "image-5")])
    stream.commit(12)


def mark_predicted(stream: Stream) -> None:
    """The last offset is the one of a transaction's mark."""
    stream.images(ids(5), "commit")
    stream.predict([*enumerate(ids(5)), (5, "image-9")])
    stream.commit(6)


def aged_doubled(stream: Stream) -> None:
    answered(stream)
    stream.predict([(19, "image-19")])
    stream.age(stream.topics.images, 20)


def fewer_aged_than_missing(stream: Stream) -> None:
    answered(stream, but=range(2, 8))
    stream.age(stream.topics.predictions, 2)


def missing_behind_what_aged(stream: Stream) -> None:
    answered(stream, but=[15])
    stream.age(stream.topics.predictions, 10)


def two_groups(stream: Stream) -> None:
    answered(stream)
    stream.predict(list(enumerate(ids(20))))


def missing_beside_skipped(stream: Stream) -> None:
    skipped(stream)
    stream.images(ids(2, start=20))
    stream.predict([(21, "image-21")])
    stream.commit(22, browse.places(stream.kafka, stream.topics.images, stream.kafka.group_id)[0].mark)


WRONG: list[tuple[Callable[[Stream], None], dict[str, int], str]] = [
    (lambda stream: answered(stream, but=[7]), {"missing": 1}, r"no answer to .*\[0\]@7"),
    (doubled, {"duplicated": 1, "out_of_order": 1}, r"image.*@19"),
    (unasked, {"mismatched": 1, "missing": 1}, "not about the message.*@7"),
    (unordered, {"out_of_order": 1}, "out of order.*@7"),
    (both, {"duplicated": 1}, "2 answers to .*@3"),
    (another_letter, {"mismatched": 1, "missing": 1}, "not about the message.*@19"),
    (anew_longer, {"mismatched": 10, "missing": 10}, "not about the message"),
    (anew_behind_its_mark, {"other_topic": 1}, "now deleted"),
    (beyond_the_end, {"beyond_end": 1}, "500 .* beyond its end, 20"),
    (aged_unread, {"aged_out_unread": 5}, "5 messages .* committed 20, the oldest is 25"),
    (aborted_predicted, {"beyond": 1}, "does not exist.*@6"),
    (mark_predicted, {"beyond": 1}, "does not exist.*@5"),
    (aged_doubled, {"duplicated": 1}, "another answer.*@19"),
    (fewer_aged_than_missing, {"missing": 6}, "fewer answers have aged out"),
    (missing_behind_what_aged, {"missing": 1}, "no answer to .*@15"),
    (two_groups, {"duplicated": 20, "out_of_order": 1}, "2 answers|out of order"),
    (missing_beside_skipped, {"missing": 1}, "no answer to .*@20"),
]
FAULTS = (
    "missing",
    "duplicated",
    "beyond",
    "out_of_order",
    "mismatched",
    "aged_out_unread",
    "beyond_end",
    "other_topic",
)


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    return own_settings(apache, partitions=1)


@pytest.mark.parametrize(("story", "faults", "example"), WRONG, ids=[getattr(w[0], "__name__", "") for w in WRONG])
def test_faults_are_found(
    kafka: KafkaSettings, story: Callable[[Stream], None], faults: dict[str, int], example: str
) -> None:
    stream = Stream(kafka)
    story(stream)
    result = stream.audit()
    assert not result.exact
    assert {name: getattr(result, name) for name in FAULTS if getattr(result, name)} == faults
    assert any(re.search(example, line) for line in result.examples), result.examples


def aborted(stream: Stream) -> None:
    """Aborted records are no inputs; the offset is committed behind the marks of both transactions."""
    stream.images(ids(5), "commit")
    stream.images(ids(5, start=5), "abort")
    stream.images(ids(5, start=10), "commit")
    stream.predict([*enumerate(ids(5)), *((12 + number, name) for number, name in enumerate(ids(5, start=10)))])
    stream.commit(18)


def skipped(stream: Stream) -> None:
    stream.images(ids(10))
    stream.predict(list(enumerate(ids(4))))
    stream.commit(4)
    move(stream.kafka, stream.topics.images, Start(word="end"))
    stream.images(ids(10, start=10))
    stream.predict([(number, f"image-{number}") for number in range(10, 20)])
    stream.commit(20, browse.places(stream.kafka, stream.topics.images, stream.kafka.group_id)[0].mark)


def aged_answers(stream: Stream) -> None:
    answered(stream)
    stream.age(stream.topics.predictions, 5)


def aged_inputs(stream: Stream) -> None:
    answered(stream)
    stream.age(stream.topics.images, 5)


def all_aged(stream: Stream) -> None:
    answered(stream)
    stream.age(stream.topics.images, 20)


def more_partitions(stream: Stream) -> None:
    answered(stream)
    for topic in (stream.topics.images, stream.topics.predictions):
        (future,) = stream.admin.create_partitions([NewPartitions(topic, 3)]).values()
        future.result()
        until(lambda topic=topic: clients.partition_counts(stream.kafka)[topic] == 3)  # type: ignore[misc]
    stream.images(ids(30, start=20))
    for partition in range(3):
        records = [r for r in browse.read(stream.kafka, stream.topics.images) if r.partition == partition]
        new = [r for r in records if partition or r.offset >= 20]
        stream.predict([(r.offset, (r.key or b"").decode()) for r in new], partition)
        stream.commit(len(records), partition=partition)


def letters(stream: Stream) -> None:
    answered(stream, but=[19])
    stream.refuse(19)


RIGHT: list[tuple[Callable[[Stream], None], dict[str, int]]] = [
    (answered, {"inputs": 20}),
    (letters, {"inputs": 20, "dead_letters": 1}),
    (aborted, {"inputs": 10}),
    (skipped, {"inputs": 14, "skipped": 6}),
    (aged_answers, {"inputs": 20, "unverifiable": 5}),
    (aged_inputs, {"inputs": 15, "aged_out": 5}),
    (all_aged, {"inputs": 0, "aged_out": 20}),
    (more_partitions, {"inputs": 50}),
    (lambda stream: stream.images(ids(5)), {"inputs": 0, "unread": 5}),
]


@pytest.mark.parametrize(("story", "told"), RIGHT, ids=[getattr(right[0], "__name__", "") for right in RIGHT])
def test_correct_streams_pass(kafka: KafkaSettings, story: Callable[[Stream], None], told: dict[str, int]) -> None:
    stream = Stream(kafka)
    story(stream)
    result = stream.audit()
    assert result.exact, result
    aside = ("skipped", "unread", "aged_out", "compacted", "unverifiable")
    expected: dict[str, Any] = dict.fromkeys(aside, 0) | {"dead_letters": 0} | told
    assert {name: getattr(result, name) for name in expected} == expected


def test_compacted_records_are_not_a_fault(kafka: KafkaSettings) -> None:
    """Holes in the images, and answers that later ones under the same id replace; what is left must be answered."""
    stream = Stream(kafka, policy="compact", outputs="compact")
    names = [*ids(5), *(f"image-{100 + number % 5}" for number in range(20))]
    stream.images(names)
    stream.predict([(number, name) for number, name in enumerate(names) if number != 2])
    stream.commit(25)
    before = stream.audit()
    assert (before.missing, before.unverifiable) == (1, 0)  # noted as missing: no later answer has its id
    stream.predict([(2, names[2])])
    assert stream.audit().out_of_order == 1
    stream.compact(stream.topics.images, 10)
    stream.compact(stream.topics.predictions, 10)
    result = stream.audit()
    assert (result.missing, result.beyond, result.duplicated, result.compacted) == (0, 0, 0, 0), result
    assert "is compacted: of several answers under one key only the last can be checked" in " ".join(result.notes)


def test_compacted_images_with_all_their_answers(kafka: KafkaSettings) -> None:
    stream = Stream(kafka, policy="compact")
    names = [*ids(5), *(f"image-{100 + number % 5}" for number in range(20))]
    stream.images(names)
    stream.predict(list(enumerate(names)))
    stream.commit(25)
    stream.compact(stream.topics.images, 10)
    result = stream.audit()
    assert result.exact, result
    assert (result.inputs, result.compacted) == (10, 15)


def test_the_command_reports_the_faults(kafka: KafkaSettings) -> None:
    stream = Stream(kafka)
    anew_longer(stream)
    own = [f"--set=kafka.{name}={getattr(kafka, name)}" for name in ("bootstrap_servers", "topic_prefix", "group_id")]
    failed = cifarctl("verify-stream", "--json", *own)
    assert failed.exit_code == 6
    assert orjson.loads(failed.stdout)["mismatched"] == 10
    assert "10 answers to a different message at that offset" in failed.stderr.splitlines()[-1]
