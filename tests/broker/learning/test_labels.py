"""What is learned from labels that come late, on the embedded broker."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from late_labels import send_labels
from processes import PATIENCE_S, Flow, Site, ids

from cifarctl import events
from cifarctl.errors import NotEnoughData
from cifarctl.flows import learn, retrain
from cifarctl.learning import examples
from cifarctl.stream import clients, codecs
from cifarctl.stream.label_records import encode_label
from cifarctl.stream.sender import Sender

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
    return site._keep(Flow(lambda stop: learn.learn(chosen, stop)))


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


def test_an_invalid_label_goes_to_the_dead_letters(site: Site) -> None:
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
    failures = [
        notice.message for notice in learning.of(events.Notice) if "no longer written to disk" in notice.message
    ]
    assert len(failures) == 1
    assert "(database or disk is full)" in failures[0]
    assert not list((site.registry.dir / "learner").glob("waiting-*"))
