"""Late labels: what they look like on the wire, how they meet their images, and what is learned and counted of them."""

from __future__ import annotations

import random
import sqlite3
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE_S, Flow, Site, ids, until

from cifarctl import events
from cifarctl.errors import NotEnoughData
from cifarctl.flows import learn, retrain
from cifarctl.learning import examples
from cifarctl.learning.pacing import AHEAD_MS, PartitionPacing
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, codecs, tail
from cifarctl.stream.clients import Topics
from cifarctl.stream.codecs import Record
from cifarctl.stream.delayed_labels import DelayedLabels
from cifarctl.stream.join import Join, Place, Store
from cifarctl.stream.label_join import MIB, LabelJoin, Matched
from cifarctl.stream.label_records import decode, encode_label, label_reader
from cifarctl.stream.sender import Sender
from cifarctl.stream.tail import Tail
from cifarctl.tally import Tally

CLASSES = 10


def record(value: bytes | None, key: bytes | None = b"the-key", offset: int = 0, topic: str = "labels") -> Record:
    return Record(topic, 0, offset, 1000, key, value, ())


# --- the wire


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), st.integers(0, 9)))
)
def test_what_is_encoded_is_decoded(pairs: list[tuple[str, int]]) -> None:
    records = [record(encode_label(id, label), offset=offset) for offset, (id, label) in enumerate(pairs)]
    found, letters = decode(records, classes=CLASSES)
    assert not letters
    assert list(zip(found.ids, found.labels.tolist(), strict=True)) == pairs
    assert found.records == records
    assert found.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("value", "key", "id"),
    [
        (b'{"label": 3}', b"the-key", "the-key"),
        (b'{"id": "", "label": 3, "more": [1]}', b"the-key", "the-key"),
        (b'{"id": null, "label": 3}', "\u00fc".encode(), "\u00fc"),
        (b'{"id": 17, "label": 3}', b"the-key", "17"),
    ],
)
def test_which_image_a_label_belongs_to(value: bytes, key: bytes, id: str) -> None:
    found, letters = decode([record(value, key)], classes=CLASSES)
    assert not letters
    assert (found.ids, found.labels.tolist()) == ([id], [3])


BAD: list[tuple[bytes | None, bytes | None, str]] = [
    (None, b"k", "NullValue"),
    (b"", b"k", "NotJson"),
    (b"3", b"k", "NotAnObject"),
    (b"[]", b"k", "NotAnObject"),
    (b"{" * 100_000, b"k", "NotJson"),
    (b'{"id": "a"}', b"k", "MissingLabel"),
    (b'{"id": "a", "label": null}', b"k", "MissingLabel"),
    (b'{"id": "a", "label": "3"}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": 3.0}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": true}', b"k", "LabelNotInteger"),
    (b'{"id": "a", "label": NaN}', b"k", "NotJson"),
    (b'{"id": "a", "label": -1}', b"k", "LabelOutOfRange"),
    (b'{"id": "a", "label": 10}', b"k", "LabelOutOfRange"),
    (b'{"id": "a", "label": 123456789012345678901234567890}', b"k", "LabelNotInteger"),
    (b'{"id": ["a"], "label": 3}', b"k", "IdNotText"),
    (b'{"id": false, "label": 3}', b"k", "IdNotText"),
    (b'{"id": "\\ud800", "label": 3}', b"k", "NotJson"),
    (b'{"id": "' + b"x" * 1025 + b'", "label": 3}', b"k", "IdTooLong"),
    (b'{"label": 3}', b"x" * 1025, "IdTooLong"),
    (b'{"label": 3}', None, "MissingId"),
]


@pytest.mark.parametrize(("value", "key", "error"), BAD, ids=[f"{error}-{n}" for n, (_, _, error) in enumerate(BAD)])
def test_what_is_no_label_is_a_dead_letter(value: bytes | None, key: bytes | None, error: str) -> None:
    bad, good = record(value, key), record(encode_label("a", 3), offset=1)
    found, (letter,) = decode([bad, good], classes=CLASSES)
    assert found.records == [good]
    assert (letter.record, letter.stage, letter.error) == (bad, "label", error)
    assert letter.message
    assert len(letter.message) < 500
    codecs.dead_letter_message(letter)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=20))
def test_whatever_the_bytes_each_record_is_in_one_place(values: list[bytes | None]) -> None:
    records = [record(value, offset=offset) for offset, value in enumerate(values)]
    found, letters = decode(records, classes=CLASSES)
    assert sorted(found.records + [letter.record for letter in letters], key=lambda r: r.offset) == records


# --- the join


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def images(numbers: list[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images whose pixels tell their number."""
    pixels = np.zeros((len(numbers), 3, 32, 32), dtype=np.uint8)
    for row, number in enumerate(numbers):
        pixels[row, :, 0, :2] = number % 256, number // 256
    return pixels


def number_of(image: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def place(number: int, topic: str = "images") -> Place:
    return Place(topic, number % 3, 100 + number, 1000 * number)


def label_of(number: int) -> int:
    return number % 10


def pairs(found: Matched) -> list[tuple[str, int, int]]:
    """id, number of the pixels and label of each match."""
    return [
        (id, number_of(image), label)
        for id, image, label in zip(found.ids, found.pixels, found.labels.tolist(), strict=True)
    ]


#: What arrives: images, labels or both of some numbers, in any order and any batches.
arrivals = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=120)


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_makes_the_same_pairs(halves: list[tuple[int, bool]], chance: random.Random) -> None:
    join = LabelJoin(wait_s=1e9, max_mb=64)
    told: list[tuple[str, int, int]] = []
    waiting = list(halves)
    seen: list[tuple[int, bool]] = []
    while waiting:
        kind = waiting[0][1]
        batch = []
        while waiting and waiting[0][1] == kind and (not batch or chance.random() < 0.7):
            batch.append(waiting.pop(0)[0])
        names = [str(number) for number in batch]
        before = list(seen)
        seen += [(number, kind) for number in batch]
        if kind:
            found = join.add_images(names, images(batch), batch, map(place, batch))
        else:
            labels = np.array([label_of(number) for number in batch], dtype=np.int64)
            found = join.add_labels(names, labels, [place(number, "labels") for number in batch])
        assert found.numbers == [int(image_id) for image_id in found.ids]
        # In the order of the halves that complete them, and as soon as both are there.
        new = [n for n in dict.fromkeys(batch) if (n, not kind) in before and (n, kind) not in before]
        assert pairs(found) == [(str(number), number, label_of(number)) for number in new]
        told += pairs(found)
        # What still waits holds the offset back, and nothing else.
        shown, labelled = {n for n, image in seen if image}, {n for n, image in seen if not image}
        lowest: dict[tuple[str, int], int] = {}
        for topic, lonely in (("images", shown - labelled), ("labels", labelled - shown)):
            for number in lonely:
                at = place(number, topic)
                lowest[at[:2]] = min(at.offset, lowest.get(at[:2], at.offset))
        assert join.low_water() == lowest
        assert len(join) == len(shown - labelled)
    both = {n for n, image in halves if image} & {n for n, image in halves if not image}
    assert sorted(told) == sorted((str(number), number, label_of(number)) for number in both)
    assert join.unmatched_images == join.unmatched_labels == join.conflicting_labels == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("image"), st.integers(0, 30)),
            st.tuples(st.just("label"), st.integers(0, 30)),
            st.tuples(st.just("settle"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.integers(1, 8)),
        ),
        max_size=150,
    )
)
def test_within_tight_bounds_no_pair_is_made_twice(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    join: Join[str] = Join(Store(8000, 10), wait_s=10, label_bytes=4000, settled_bytes=10**6, clock=clock)
    made: dict[int, float] = {}
    arrived: dict[tuple[str, int], float] = {}
    for kind, number in steps:
        if kind == "wait":
            clock.now += number
            join.expire()
            continue
        id, found = str(number), False
        arrived.setdefault((kind, number), clock.now)
        if kind == "image":
            label = join.add_item(id, f"item {id}", 500)
            found = label is not None
            assert label in (None, label_of(number))
        elif kind == "label":
            item = join.add_label(id, label_of(number))
            found = item is not None
            assert item in (None, f"item {id}")
        else:
            join.settle(id, label_of(number))
        assert join.items.fill <= 1
        assert join.labels.fill <= 1
        if found:
            # Not again while it is remembered, and never out of one half.
            assert clock.now - made.get(number, -1e9) > 10
            assert {("image", number), ("label", number)} <= arrived.keys()
            made[number] = clock.now


def test_what_waits_too_long_is_given_up_and_counted() -> None:
    clock = Clock()
    join = LabelJoin(wait_s=10, max_mb=1, clock=clock)
    join.add_images(["a"], images([1]), [1], [place(1)])
    join.add_labels(["x"], np.array([5]), [place(2, "labels")])
    clock.now += 6
    join.add_images(["b"], images([2]), [2], [place(2)])
    clock.now += 5
    assert pairs(join.add_labels(["a", "b"], np.array([1, 2]), [None, None])) == [("b", 2, 2)]
    assert (join.unmatched_images, join.unmatched_labels, join.displaced_images) == (1, 1, 0)
    assert join.low_water() == {}  # the labels of this test have no place
    clock.now += 11
    assert len(join.add_images(["x"], images([3]), [3], [place(3)]).ids) == 0
    assert join.unmatched_labels == 2


def test_beyond_its_room_the_oldest_go() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    numbers = list(range(500))
    join.add_images([str(n) for n in numbers], images(numbers), numbers, map(place, numbers))
    kept = len(join)
    assert MIB * 0.8 / 3072 < kept < MIB / 3072
    assert join.unmatched_images == join.displaced_images == 500 - kept
    assert min(join.low_water().values()) == 100 + 500 - kept
    found = join.add_labels([str(n) for n in numbers], np.zeros(500, dtype=np.int64), [None] * 500)
    assert found.ids == [str(n) for n in numbers[-kept:]]
    assert [number_of(image) for image in found.pixels] == numbers[-kept:]


@pytest.mark.parametrize("half", ["images", "labels", "settled", "long ids"])
def test_the_bound_is_one_of_real_memory(half: str) -> None:
    join = LabelJoin(wait_s=1e9, max_mb=2)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, 6000, 50):
            names = [f"{'x' * (900 if half == 'long ids' else 1)}-{n:08d}" for n in range(start, start + 50)]
            if half == "images":
                join.add_images(names, images([1] * 50), [1] * 50, [place(300 + n) for n in range(start, start + 50)])
            elif half == "settled":
                join.settle(names, [3] * 50)
            else:
                join.add_labels(names, np.zeros(50, dtype=np.int64), [place(n, "labels") for n in range(50)])
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    allowed = {"images": 2, "labels": 1, "settled": 0.5, "long ids": 1}[half] * MIB
    assert allowed * 0.5 < used < allowed * 1.1


def test_repeated_and_conflicting_labels_are_counted_and_change_nothing() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)

    def label(value: int) -> Matched:
        return join.add_labels(["a"], np.array([value]), [None])

    assert pairs(label(3)) == []
    assert pairs(label(3)) == []
    assert pairs(label(4)) == []
    assert (join.repeated_labels, join.conflicting_labels) == (1, 1)
    assert pairs(join.add_images(["a"], images([7]), [7], [None])) == [("a", 7, 3)]  # the first one counts
    assert pairs(label(3)) == pairs(label(5)) == []
    assert (join.repeated_labels, join.conflicting_labels) == (2, 2)
    assert pairs(join.add_images(["a"], images([7]), [7], [None])) == []
    assert len(join) == 0


def test_an_image_that_brings_its_label_waits_for_none() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_labels(["a", "b"], np.array([1, 2]), [place(1), place(2)])
    join.add_images(["c"], images([3]), [3], [place(3)])
    join.settle(["a", "b", "c", "d"], [1, 9, 3, None])
    assert (join.repeated_labels, join.conflicting_labels) == (1, 1)
    assert join.low_water() == {}
    assert len(join) == 0
    assert pairs(join.add_labels(["c", "d"], np.array([3, 4]), [None, None])) == []
    assert join.repeated_labels == 3


def test_partitions_that_go_away_take_along_what_waits() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_images(["0", "1", "2"], images([0, 1, 2]), [0, 1, 2], map(place, range(3)))
    join.add_labels(["x"], np.array([5]), [place(1, "labels")])
    join.forget({("images", 0), ("labels", 1)})
    assert join.low_water() == {("images", 1): 101, ("images", 2): 102}
    assert pairs(join.add_labels(["0", "1"], np.array([0, 1]), [None, None])) == [("1", 1, 1)]
    assert join.unmatched_images == 0  # somebody else has it now


def test_what_is_too_old_holds_no_offset_back() -> None:
    join = LabelJoin(wait_s=1e9, max_mb=1)
    join.add_images(["1", "4", "7"], images([1, 4, 7]), [1, 4, 7], map(place, [1, 4, 7]))
    join.add_images(["x"], images([9]), [9], [Place("images", 0, 5, -1)])  # of unknown age
    assert join.low_water() == {("images", 0): 5, ("images", 1): 101}
    assert join.low_water(3999) == {("images", 0): 5, ("images", 1): 104}
    assert join.low_water(10_000) == {("images", 0): 5}


# --- reading side by side


IMAGES, LABELS = ("images", 0), ("labels", 0)
BOTH = {IMAGES, LABELS}


def batch(partition: tuple[str, int], *seconds: int) -> list[Record]:
    return [Record(*partition, 0, 1000 * second, None, None, ()) for second in seconds]


def test_what_runs_ahead_is_held_back_until_the_others_have_caught_up() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(LABELS, 10, 50), BOTH, 0.4) == set()
    assert pace.after(batch(LABELS, 90), BOTH, 0.6) == {LABELS}
    assert pace.after(batch(IMAGES, 10), BOTH, 0.6) == {LABELS}
    assert pace.after(batch(IMAGES, 89), BOTH, 0.4) == {LABELS}
    assert pace.after(batch(IMAGES, 90), BOTH, 0.4) == set()
    assert pace.after(batch(IMAGES, 95), BOTH, 0.6) == {IMAGES}
    assert pace.after(batch(LABELS, 91), BOTH, 0.2) == set()


def test_partitions_of_one_topic_are_kept_together_too() -> None:
    pace, other = PartitionPacing(), ("images", 1)
    assigned = BOTH | {other}
    assert pace.after(batch(IMAGES, 50) + batch(LABELS, 50), assigned, 0.6) == BOTH
    assert pace.after(batch(other, 80), assigned, 0.6) == {other}


def test_a_partition_with_nothing_more_to_bring_is_not_waited_for() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(IMAGES, 10), BOTH, 0.9) == {IMAGES}
    assert pace.after([], BOTH, 0.9) == set()
    assert pace.after(batch(IMAGES, 20), BOTH, 0.9) == set()
    assert pace.after(batch(LABELS, 5), BOTH, 0.9) == {IMAGES}  # but when it has again


def test_what_has_moved_on_is_not_waited_for() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(IMAGES, 10), BOTH, 0.9) == {IMAGES}
    assert pace.after(batch(LABELS, 5), {IMAGES}, 0.9) == set()


def test_side_by_side_nothing_is_held_back() -> None:
    pace = PartitionPacing()
    (image,) = batch(IMAGES, 50)
    label = image._replace(topic="labels", timestamp_ms=image.timestamp_ms + AHEAD_MS)
    assert pace.after([image, label], BOTH, 0.9) == set()
    assert PartitionPacing().after([image._replace(timestamp_ms=-1)], BOTH, 0.9) == set()  # of unknown age


# --- the accuracy served


def test_late_labels_count_for_the_accuracy_served() -> None:
    late, tally = DelayedLabels(600.0), Tally()

    def take(event: events.LabelsMatched | None) -> None:
        assert event is not None
        tally.update(event)

    assert late.label([("b", 2), ("x", 1)]) is None
    first = late.add(["a", "b", "c"], np.array([-1, -1, 3]), np.array([1, 2, 3]), 7)
    assert first is not None
    assert (first.ids, first.labels.tolist(), first.predicted.tolist(), first.versions.tolist()) == (
        ["b"], [2], [2], [7],
    )  # fmt: skip
    take(first)
    assert len(late) == 1
    assert late.add(["a"], np.array([-1]), np.array([5]), 8) is None  # predicted again: the first counts
    take(late.label([("a", 4), ("c", 3), ("nobody", 0)]))
    assert late.label([("a", 4)]) is None
    assert (tally.labelled, tally.correct, tally.accuracy, tally.recent_accuracy) == (2, 1, 0.5, 0.5)


def test_predictions_are_remembered_within_bounds() -> None:
    clock = Clock()
    late = DelayedLabels(10.0, most=100, clock=clock)
    names = [f"image-{n:06d}" for n in range(300)]
    late.add(names, np.full(300, -1), np.zeros(300, dtype=np.int64), 1)
    assert 90 <= len(late) <= 110
    found = late.label([(name, 0) for name in names])
    assert found is not None
    assert found.ids == names[-len(found.ids) :]
    late.add(["old"], np.array([-1]), np.array([1]), 1)
    clock.now += 11
    assert late.label([("old", 1)]) is None
    assert len(late) == 0


# --- reading the topic


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(tail, "WAIT_S", 0.05)


def send_labels(settings: KafkaSettings, labels: dict[str, int] | list[tuple[bytes, bytes]]) -> None:
    topic = Topics.of(settings.topic_prefix).labels
    clients.ensure_topics(settings, [topic])
    sender = Sender(settings)
    if isinstance(labels, dict):
        labels = [(id.encode(), encode_label(id, label)) for id, label in labels.items()]
    for key, value in labels:
        sender.send(topic, key, value)
    sender.close(PATIENCE_S)


def gather(reader: Tail[tuple[str, int]], count: int) -> dict[str, int]:
    found: list[tuple[str, int]] = []
    until(lambda: found.extend(reader.read()) or len(found) >= count, lambda: f"{len(found)} of {count} labels")
    assert len(found) == count
    return dict(found)


@pytest.mark.broker
@pytest.mark.usefixtures("quick")
def test_a_reader_gets_all_labels_and_leaves_no_trace(kafka: KafkaSettings) -> None:
    first = {f"a-{n}": n % 10 for n in range(50)}
    send_labels(kafka, first)
    send_labels(kafka, [(b"k", b"no label"), (b"k", b'{"id": "bad", "label": 77}')])
    with (
        label_reader(kafka, classes=CLASSES, wait_s=600) as reader,
        label_reader(kafka, classes=CLASSES, wait_s=600) as two,
    ):
        assert gather(reader, 50) == first
        second = {f"b-{n}": n % 10 for n in range(30)}
        send_labels(kafka, second)
        assert gather(reader, 30) == second
        assert gather(two, 80) == first | second
        assert reader.last_error is None
    client = clients.consumer(kafka, kafka.group_id)
    try:
        places = [TopicPartition(Topics.of(kafka.topic_prefix).labels, number) for number in range(kafka.partitions)]
        assert {place.offset for place in client.committed(places, timeout=PATIENCE_S)} == {-1001}
    finally:
        client.close()


@pytest.mark.broker
@pytest.mark.usefixtures("quick")
def test_a_topic_that_is_absent_is_not_created_but_found_later(kafka: KafkaSettings) -> None:
    topic = Topics.of(kafka.topic_prefix).labels
    looks = 0
    with label_reader(kafka, classes=CLASSES, wait_s=600) as reader:
        look = reader._look

        def counted() -> None:
            nonlocal looks
            look()
            looks += 1

        reader._look = counted  # type: ignore[method-assign]
        until(lambda: looks >= 3)
        assert topic not in clients.partition_counts(kafka)
        assert reader.read() == []
        send_labels(kafka, {"a": 1})
        assert gather(reader, 1) == {"a": 1}


@pytest.mark.apache
@pytest.mark.usefixtures("quick")
def test_a_reader_begins_where_labels_are_young_and_takes_new_partitions_in(
    apache_kafka_settings: KafkaSettings,
) -> None:
    own = apache_kafka_settings
    topic = Topics.of(own.topic_prefix).labels
    clients.ensure_topics(own, [topic])
    sender, hour_ago = Sender(own), int(time.time() * 1000) - 3_600_000
    for number in range(30):  # partition 2 holds old ones only
        id = f"old-{number}"
        sender.producer.produce(topic, encode_label(id, 1), id.encode(), partition=number % 3, timestamp=hour_ago)
    for number in range(20):
        id = f"young-{number}"
        sender.producer.produce(topic, encode_label(id, 2), id.encode(), partition=number % 2)
    sender.close(PATIENCE_S)
    with label_reader(own, classes=CLASSES, wait_s=600) as reader:
        assert gather(reader, 20) == {f"young-{number}": 2 for number in range(20)}
        admin = AdminClient({"bootstrap.servers": own.bootstrap_servers})
        for future in admin.create_partitions([NewPartitions(topic, 5)]).values():
            future.result()
        until(lambda: clients.partition_counts(own)[topic] == 5)
        sender = Sender(own)
        for partition in range(5):
            id = f"new-{partition}"
            sender.producer.produce(topic, encode_label(id, partition), id.encode(), partition=partition)
        sender.close(PATIENCE_S)
        assert gather(reader, 5) == {f"new-{partition}": partition for partition in range(5)}


@pytest.mark.usefixtures("quick")
def test_a_broker_that_is_away_is_no_error() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with label_reader(nowhere, classes=CLASSES, wait_s=600) as reader:
        until(lambda: reader.last_error)
        assert reader.read() == []


# --- learning


BRISK: dict[str, Any] = {
    "online__update_every": 1_000_000,
    "online__min_examples": 100,
    "online__buffer_size": 800,
    "online__reference_size": 500,
    "online__steps": 3,
    "online__niceness": 0,
}


def learner(site: Site, **changes: Any) -> Flow[events.LearnEvent]:
    chosen = site.settings(**(BRISK | changes))
    return site._keep(Flow(lambda stop: learn.follow(chosen, stop)))


def labelled(flow: Flow[events.LearnEvent]) -> int:
    statuses = flow.of(events.LearnerStatus)
    return statuses[-1].labelled if statuses else 0


def waiting(flow: Flow[events.LearnEvent]) -> int:
    statuses = flow.of(events.LearnerStatus)
    return statuses[-1].waiting if statuses else 0


def learner_offsets(site: Site, name: str) -> dict[int, int]:
    """The committed offset of each partition of a topic."""
    topic = getattr(site.topics, name)
    client = clients.consumer(site.kafka, f"{site.kafka.group_id}.learner")
    try:
        places = [TopicPartition(topic, number) for number in range(clients.partition_counts(site.kafka)[topic])]
        return {place.partition: place.offset for place in client.committed(places, timeout=PATIENCE_S)}
    finally:
        client.close()


def truth(site: Site) -> dict[str, int]:
    """The labels of what is on the images topic, as the labels topic tells them."""
    found, _ = decode(site.topic("labels").look(), classes=CLASSES)
    return dict(zip(found.ids, found.labels.tolist(), strict=True))


@pytest.mark.broker
def test_retrain_learns_from_labels_that_come_after_or_before_their_images(site: Site) -> None:
    site.send(150, produce__label_delay=0.3)
    early = [(f"early-{n}", n % 10) for n in range(60)]
    send_labels(site.kafka, dict(early))
    sender = Sender(site.kafka)
    for (id, _), pixels in zip(early, site.stream_images().pixels.numpy(), strict=False):
        sender.send(site.topics.images, id.encode(), codecs.encode_raw(pixels), codecs.headers_for("raw", id, None))
    sender.close(PATIENCE_S)
    site.send(40)  # and some that bring theirs
    site.send(20, produce__unlabelled=1.0)
    chosen = site.settings(**(BRISK | {"online__min_examples": 250}))
    told = site._keep(Flow(lambda stop: retrain.once(chosen, stop)))
    result = told.result()
    results = told.of(events.RetrainResult)
    assert results[-1].examples == 150 + 60 + 40
    assert result is not None


@pytest.mark.broker
def test_a_restart_loses_no_image_that_waits(site: Site) -> None:
    """Killed while images wait: the offsets committed are not beyond them, and a successor learns from all of them."""
    topic = site.topic("images")
    site.send(200, produce__unlabelled=1.0)
    names = ids(topic)
    answers = {name: number % 10 for number, name in enumerate(names)}
    held_back = {name for number, name in enumerate(names) if number % 5 == 4}
    send_labels(site.kafka, {name: label for name, label in answers.items() if name not in held_back})
    send_labels(site.kafka, {f"unborn-{n}": 1 for n in range(10)})

    first = site.start("retrain", "--follow", **BRISK)
    first.until(lambda: sum(max(0, offset) for offset in learner_offsets(site, "images").values()) > 0)
    first.until(lambda: sum(max(0, offset) for offset in learner_offsets(site, "labels").values()) >= 100)
    first.kill()
    offsets = learner_offsets(site, "images")
    for record in topic.look():
        if (record.key or b"").decode() in held_back:
            assert offsets[record.partition] <= record.offset

    second = learner(site)
    second.until(lambda: labelled(second) >= 160 and waiting(second) >= 40)
    assert (labelled(second), waiting(second)) == (160, 40)
    send_labels(site.kafka, {name: answers[name] for name in held_back})
    second.until(lambda: labelled(second) >= 200)
    assert waiting(second) == 0
    second.finish()
    ends: dict[int, int] = {}
    for record in topic.look():
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    assert {n: offset for n, offset in learner_offsets(site, "images").items() if n in ends} == ends


@pytest.mark.broker
@pytest.mark.parametrize(("wait", "held_back"), [(600.0, True), (0.001, False)], ids=["young", "old"])
def test_images_that_never_get_a_label_hold_back_for_a_time_only(site: Site, wait: float, held_back: bool) -> None:
    """Else each `retrain`, which runs for seconds, would begin at the first image that nobody has ever labelled."""
    topic = site.topic("images")
    site.send(40, produce__unlabelled=1.0)
    topic.await_records(40)
    chosen = site.settings(**(BRISK | {"online__label_wait": wait}))
    with pytest.raises(NotEnoughData):
        site._keep(Flow(lambda stop: retrain.once(chosen, stop))).result()
    assert sum(max(0, offset) for offset in learner_offsets(site, "images").values()) == (0 if held_back else 40)


@pytest.mark.broker
def test_what_is_no_label_goes_to_the_dead_letters(site: Site) -> None:
    site.send(30, produce__label_delay=0.01)
    send_labels(site.kafka, [(b"k", b"no label"), (b"k", b'{"id": "bad", "label": 77}')])
    learning = learner(site)
    learning.until(lambda: labelled(learning) == 30)
    letters = site.topic("dead_letters").await_records(2)
    learning.finish()
    errors = {(dict(letter.headers)["cifarctl.error.class"], letter.value) for letter in letters}
    assert errors == {(b"NotJson", b"no label"), (b"LabelOutOfRange", b'{"id": "bad", "label": 77}')}
    assert {dict(letter.headers)["cifarctl.source.topic"] for letter in letters} == {site.topics.labels.encode()}
    assert any("2 messages on" in notice.message for notice in learning.of(events.Notice))


@pytest.mark.broker
@pytest.mark.parametrize("disk_mb", [0, 1024])
def test_a_backlog_that_does_not_fit_into_memory_is_joined_all_the_same(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    disk_mb: int,
) -> None:
    """1 MiB holds some 300 images and 1,000 labels; of 1,500 none is lost, since what runs ahead is held back.

    Nor is it with a disk, on which all images have room, but not the labels.
    """
    monkeypatch.setattr(examples, "READ", 32)  # a batch of each partition fits in beside what makes it hold back
    count, began_ms = 1500, int(time.time() * 1000) - 10_000
    clients.ensure_topics(site.kafka, [site.topics.images, site.topics.labels])
    pixels = site.stream_images().pixels.numpy()
    sender = Sender(site.kafka)
    for number in range(count):  # one image a millisecond, each label 100 ms after it
        id, at = f"image-{number}", began_ms + number
        value = codecs.encode_raw(pixels[number % len(pixels)])
        sender.producer.produce(site.topics.images, value, id.encode(), timestamp=at)
        sender.producer.produce(site.topics.labels, encode_label(id, number % 10), id.encode(), timestamp=at + 100)
    sender.close(PATIENCE_S)
    learning = learner(site, online__label_wait_mb=1, online__label_wait_disk_mb=disk_mb)
    learning.until(lambda: labelled(learning) == count)
    learning.finish()
    assert waiting(learning) == 0


@pytest.mark.broker
def test_images_that_do_not_fit_into_memory_wait_on_disk(site: Site) -> None:
    site.send(900, produce__unlabelled=1.0)
    learning = learner(site, online__label_wait_mb=1)
    learning.until(lambda: waiting(learning) == 900)
    folder = site.registry.dir / "learner"
    assert not list(folder.glob("waiting-*"))  # which has no name
    names = ids(site.topic("images"))
    random.Random(0).shuffle(names)
    send_labels(site.kafka, {name: number % 10 for number, name in enumerate(names)})
    learning.until(lambda: labelled(learning) == 900)
    learning.finish()
    assert waiting(learning) == 0


@pytest.mark.broker
def test_without_a_disk_the_oldest_images_are_given_up_and_that_is_told(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    site.send(900, produce__unlabelled=1.0)
    learning = learner(site, online__label_wait_mb=1)
    told = "images were dropped before their labels came: without the disk, online.label_wait_mb is too small"
    learning.until(lambda: any(told in notice.message for notice in learning.of(events.Notice)))
    learning.until(lambda: waiting(learning) > 200)
    learning.finish()
    failures = [notice.message for notice in learning.of(events.Notice) if "to the disk no more" in notice.message]
    assert len(failures) == 1
    assert "(database or disk is full)" in failures[0]
    assert not list((site.registry.dir / "learner").glob("waiting-*"))
