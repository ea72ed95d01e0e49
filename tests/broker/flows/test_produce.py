"""What `produce` puts on the topic and when."""

from __future__ import annotations

import json
import threading
import time
import types
from typing import Any

import numpy as np
import pytest
import torch
from processes import CLASSES, Site, ids
from producing import decoded, streamed

from cifarctl import events
from cifarctl.data import Course, Scenario
from cifarctl.flows import produce as produce_module
from cifarctl.flows.produce import BLOCK
from cifarctl.stream import clients, codecs, label_records, lane
from cifarctl.stream.records import Record
from cifarctl.stream.sender import Sender


@pytest.mark.parametrize("format", ["raw", "json", "png"])
def test_the_images_are_those_of_the_scenario(site: Site, format: str) -> None:
    """More than a block and more than there are: noise is drawn by position, and the stream starts again."""
    count, text, seed = 440, "noise:0.1@100-300,invert@250-430", 3
    assert len(site.stream_images()) < count
    assert count > BLOCK
    told = list(site.produce(count, drift=text, produce__format=format, produce__seed=seed))
    batch = decoded(site.topic("images").await_records(count))

    expected = streamed(site.stream_images(), 0, count, Scenario.parse(text), seed)
    assert np.array_equal(batch.pixels, expected.pixels.numpy())
    assert batch.labels.tolist() == expected.labels.tolist()
    clean = streamed(site.stream_images(), 0, count, Scenario.parse(""), seed)
    changed = [not torch.equal(a, b) for a, b in zip(expected.pixels, clean.pixels, strict=True)]
    assert changed == [100 <= position < 430 for position in range(count)]

    assert isinstance(told[0], events.ProduceStarted)
    assert isinstance(told[-1], events.ProduceResult)
    (notice,) = [event.message for event in told if isinstance(event, events.Notice)]
    assert "some come again" in notice
    last = told[-2]
    assert isinstance(last, events.ProduceProgress)
    assert (last.phase, last.sent, last.queued) == ("clean", count, 0)
    assert (told[-1].sent, told[-1].failed) == (count, 0)


@pytest.mark.parametrize("format", ["raw", "json", "png"])
def test_what_a_message_looks_like(site: Site, format: str) -> None:
    site.send(10, produce__format=format)
    for record in site.topic("images").await_records(10):
        headers = dict(record.headers)
        assert headers["id"] == record.key
        assert headers["content-type"] == codecs.CONTENT_TYPES[format].encode()
        assert record.value is not None
        if format != "json":
            assert (len(record.value) == 3072) == (format == "raw")
            assert record.value.startswith(b"\x89PNG") == (format == "png")
            assert int(headers["label"] or b"") in range(10)
        else:
            body = json.loads(record.value)
            assert body.keys() == {"image", "label", "id"}
            assert body["id"].encode() == record.key
            assert "label" not in headers


def test_ids_are_unique_across_runs_and_the_rest_follows_from_the_seed(site: Site) -> None:
    topic = site.topic("images")
    site.send(60, produce__unlabelled=0.3)
    first = decoded(topic.await_records(60))
    site.send(60, produce__unlabelled=0.3)
    assert len(set(ids(topic))) == 120
    second = decoded([record for record in topic.await_records(120) if record not in first.records])
    assert np.array_equal(first.pixels, second.pixels)
    assert first.labels.tolist() == second.labels.tolist()
    site.send(60, produce__seed=1)
    known = {*first.ids, *second.ids}
    third = decoded([record for record in topic.await_records(180) if (record.key or b"").decode() not in known])
    assert not np.array_equal(first.pixels, third.pixels)


@pytest.mark.parametrize("format", ["raw", "json"])
def test_a_share_of_the_labels_is_withheld(site: Site, format: str) -> None:
    site.send(400, produce__unlabelled=0.3, produce__format=format)
    batch = decoded(site.topic("images").await_records(400))
    truth = streamed(site.stream_images(), 0, 400, Scenario.parse(""), 0).labels.numpy()
    hidden = batch.labels < 0
    assert 80 <= hidden.sum() <= 160  # more than four standard deviations to each side
    assert np.array_equal(batch.labels[~hidden], truth[~hidden])


def number(id: str) -> int:
    """The position of an image in the stream."""
    return int(id.partition("-")[2])


def by_id(records: list[Record]) -> dict[str, Record]:
    found = {(record.key or b"").decode(): record for record in records}
    assert len(found) == len(records)
    return found


@pytest.mark.parametrize("format", ["raw", "json"])
def test_labels_follow_their_images_after_the_delay(site: Site, format: str) -> None:
    """On the labels topic, under the same key in the partition of the same number; those withheld never come."""
    images, delay = site.topic("images"), 0.4
    *_, result = site.produce(
        200, produce__label_delay=delay, produce__unlabelled=0.3, produce__format=format, produce__rate=400
    )
    assert isinstance(result, events.ProduceResult)
    sent = images.await_records(200)
    assert decoded(sent).labels.tolist() == [-1] * 200
    late = site.topic("labels").await_records(result.labels_sent)
    found, letters = label_records.decode(late, classes=10)
    assert not letters
    assert (result.sent, result.failed, result.labels_failed) == (200, 0, 0)
    assert 110 <= result.labels_sent <= 170
    truth = streamed(site.stream_images(), 0, 200, Scenario.parse(""), 0).labels.tolist()
    image_of = by_id(sent)
    for record, id, label in zip(found.records, found.ids, found.labels.tolist(), strict=True):
        image = image_of[id]
        assert record.key == image.key
        assert record.partition == image.partition
        assert label == truth[number(id)]
        assert record.timestamp_ms >= image.timestamp_ms + 1000 * delay - 2  # timestamps are whole milliseconds
    # The images' figures are not spoiled by the wait for the last label_records.
    assert result.seconds < 199 / 400 + delay


@pytest.mark.parametrize("rate", [0, 2000])
def test_labels_that_a_scenario_makes_late_follow_so_many_images_later(
    site: Site,
    rate: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither earlier nor later, whatever the delays beside; those that it takes away or falsifies are in the header
    as on the labels topic.
    """
    scenario, count = "late:100@50-200,late:3@200-350,labelled:0.6@0-400,wrong:0.5@0-400", 400
    sent: list[tuple[str, int]] = []

    class Noting(Sender):
        def enqueue_many(self, topic: str, messages: Any) -> int:
            wanted = list(messages)
            taken = super().enqueue_many(topic, wanted)
            sent.extend((topic.rpartition(".")[2], number(key.decode())) for key, _, _ in wanted[:taken])
            return taken

    monkeypatch.setattr(lane, "Sender", Noting)
    *_, result = site.produce(count, drift=scenario, produce__rate=rate)
    assert isinstance(result, events.ProduceResult)
    course = Course(site.stream_images(), Scenario.parse(scenario), 0, CLASSES).take(0, count)
    given = {position: label for position, label in enumerate(course.given.tolist()) if label >= 0}

    before, images = {}, 0
    for kind, position in sent:
        if kind == "images":
            assert position == images
            images += 1
        else:
            before[position] = images
    late = {position: 100 if position < 200 else 3 for position in given if 50 <= position < 350}
    assert before == {position: min(position + delay + 1, count) for position, delay in late.items()}

    batch = decoded(site.topic("images").await_records(count))
    labelled = zip(batch.ids, batch.labels.tolist(), strict=True)
    at_once = {position: label for position, label in given.items() if position not in late}
    assert {number(id): label for id, label in labelled if label >= 0} == at_once
    found, letters = label_records.decode(site.topic("labels").await_records(result.labels_sent), classes=CLASSES)
    assert not letters
    told = {number(id): label for id, label in zip(found.ids, found.labels.tolist(), strict=True)}
    assert told == {position: given[position] for position in late}


def test_with_a_delay_the_same_labels_are_withheld_as_without(site: Site) -> None:
    site.send(100, produce__unlabelled=0.3)
    first = decoded(site.topic("images").await_records(100))
    site.send(100, produce__unlabelled=0.3, produce__label_delay=0.01)
    found, _ = label_records.decode(site.topic("labels").await_records(int((first.labels >= 0).sum())), classes=10)
    positions = {int(id.partition("-")[2]): label for id, label in zip(found.ids, found.labels.tolist(), strict=True)}
    assert [positions.get(number, -1) for number in range(100)] == first.labels.tolist()


def test_without_a_delay_there_is_no_labels_topic(site: Site) -> None:
    site.send(10)
    assert site.topics.labels not in clients.partition_counts(site.kafka)


def test_a_stop_sends_the_remaining_labels_at_once(site: Site) -> None:
    topic = site.topic("images")
    producing = site.keep_producing(rate=200, produce__label_delay=3600)
    producing.until(lambda: any(event.labels_waiting >= 30 for event in producing.of(events.ProduceProgress)))
    result = producing.finish()
    assert isinstance(result, events.ProduceResult)
    assert result.sent == result.labels_sent >= 30
    assert result.failed == result.labels_failed == 0
    topic.await_records(result.sent)
    site.topic("labels").await_records(result.sent)
    assert producing.of(events.ProduceProgress)[-1].labels_waiting == 0


class Clock:
    """A clock that moves when somebody waits, and then a little too far, as real waiting does."""

    OVERSHOOT = 0.03

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits = 0

    def monotonic(self) -> float:
        return self.now


class Waiter(threading.Event):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout > 0
        self._clock.now += timeout + Clock.OVERSHOOT
        self._clock.waits += 1
        assert self._clock.waits < 100_000, "it waits for ever"
        return self.is_set()


@pytest.mark.parametrize("rate", [0.2, 50.0, 1000.0])
def test_lateness_of_one_message_never_delays_another(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
) -> None:
    """Message n is due n / rate seconds after the first: waiting that is always 30 ms late adds 30 ms in all."""
    clock = Clock()
    monkeypatch.setattr(produce_module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    count, began = 300, clock.now
    *_, result = site.produce(count, stop=Waiter(clock), produce__rate=rate)
    assert isinstance(result, events.ProduceResult)
    due = (count - 1) / rate
    assert due <= clock.now - began <= due + Clock.OVERSHOOT + 1e-6
    assert result.seconds == pytest.approx(clock.now - began)
    assert result.sent == count


def test_labels_keep_to_their_times_too(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One image a second, each label 2.5 s after it: in between, and the last one 2.5 s after the end."""
    clock = Clock()
    monkeypatch.setattr(produce_module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    sent: list[tuple[str, float]] = []

    class Noting(Sender):
        def enqueue_many(self, topic: str, messages: Any) -> int:
            taken = super().enqueue_many(topic, messages)
            sent.extend([(topic.rpartition(".")[2], clock.now - 1000.0)] * taken)
            return taken

    monkeypatch.setattr(lane, "Sender", Noting)
    *_, result = site.produce(6, stop=Waiter(clock), produce__rate=1, produce__label_delay=2.5)
    assert isinstance(result, events.ProduceResult)
    assert (result.sent, result.labels_sent) == (6, 6)
    for kind, offset in (("images", 0.0), ("labels", 2.5)):
        times = [at for topic, at in sent if topic == kind]
        # A label is due by when its image was sent, which is one late step after it was due.
        assert [round(at - number - offset, 9) >= 0 for number, at in enumerate(times)] == [True] * 6
        assert max(at - number - offset for number, at in enumerate(times)) <= 2 * Clock.OVERSHOOT + 1e-6
    assert result.seconds == pytest.approx(5, abs=0.1)


def test_progress_is_told_between_slow_messages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(produce_module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    told = list(site.produce(2, stop=Waiter(clock), produce__rate=0.2))
    assert len([event for event in told if isinstance(event, events.ProduceProgress)]) > 10


def test_no_message_is_sent_before_it_is_due(site: Site) -> None:
    began_ms = time.time() * 1000
    *_, result = site.produce(25, produce__rate=50)
    assert isinstance(result, events.ProduceResult)
    assert result.seconds >= 24 / 50
    records = sorted(site.topic("images").await_records(25), key=lambda record: record.key or b"")
    for number, record in enumerate(records):
        assert record.timestamp_ms >= began_ms + number * 20 - 2  # timestamps are whole milliseconds


def test_full_speed_waits_for_nothing(site: Site) -> None:
    """A stop event that cannot be waited for: at rate 0 nobody tries."""

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise AssertionError("it waited")

    *_, result = site.produce(500, stop=Impatient())
    assert isinstance(result, events.ProduceResult)
    assert result.sent == 500
    site.topic("images").await_records(500)


def test_a_stop_ends_it_with_everything_acknowledged(site: Site) -> None:
    producing = site.keep_producing(rate=200)
    topic = site.topic("images")
    producing.until(lambda: len(topic.look()) >= 30)
    result = producing.finish()
    assert isinstance(result, events.ProduceResult)
    assert result.failed == 0
    topic.await_records(result.sent)
