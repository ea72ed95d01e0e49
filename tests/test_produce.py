"""What `produce` puts on the topic and when; and that it and the tutorial's scripts understand each other."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_broker import broker, kafka  # noqa: F401  fixtures
from processes import Site, children, ids, predictions, site, trained, tutorial  # noqa: F401  fixtures among them

from cifarctl import events
from cifarctl.data import Scenario
from cifarctl.errors import BrokerError
from cifarctl.flows import produce as produce_module
from cifarctl.flows.produce import BLOCK, streamed
from cifarctl.models.predictor import Predictor
from cifarctl.registry.loading import load
from cifarctl.settings import KafkaSettings
from cifarctl.stream import codecs
from cifarctl.stream.codecs import Decoded, Record
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.sender import Sender

pytestmark = pytest.mark.broker

HALVES = (0.5, 0.5, 0.5)
#: kafka-python 3 would rather have an object than the tutorial's function.
plain_serializers = pytest.mark.filterwarnings("ignore:.*does not implement kafka.serializer:DeprecationWarning")
FIELDS = {"sent", "failed", "seconds", "messages_per_second"}


def decoded(records: list[Record]) -> Decoded:
    """The images in the order in which they were sent."""
    in_order = sorted(records, key=lambda record: dict(record.headers)["id"] or b"")
    batch, letters = codecs.decode(in_order, classes=10, json_mean=HALVES, json_std=HALVES)
    assert not letters
    return batch


@pytest.mark.parametrize("format", ["raw", "json"])
def test_the_images_are_those_of_the_scenario(site: Site, format: str) -> None:  # noqa: F811
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
    assert "start again" in notice
    last = told[-2]
    assert isinstance(last, events.ProduceProgress)
    assert (last.phase, last.sent, last.queued) == ("clean", count, 0)
    assert (told[-1].sent, told[-1].failed) == (count, 0)


@pytest.mark.parametrize("format", ["raw", "json"])
def test_what_a_message_looks_like(site: Site, format: str) -> None:  # noqa: F811
    site.send(10, produce__format=format)
    for record in site.topic("images").await_records(10):
        headers = dict(record.headers)
        assert headers["id"] == record.key
        assert headers["content-type"] == codecs.CONTENT_TYPES[format].encode()
        assert record.value is not None
        if format == "raw":
            assert len(record.value) == 3072
            assert int(headers["label"] or b"") in range(10)
        else:
            body = json.loads(record.value)
            assert body.keys() == {"image", "label", "id"}
            assert body["id"].encode() == record.key
            assert "label" not in headers


def test_ids_are_unique_across_runs_and_the_rest_follows_from_the_seed(site: Site) -> None:  # noqa: F811
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
def test_a_share_of_the_labels_is_withheld(site: Site, format: str) -> None:  # noqa: F811
    site.send(400, produce__unlabelled=0.3, produce__format=format)
    batch = decoded(site.topic("images").await_records(400))
    truth = streamed(site.stream_images(), 0, 400, Scenario.parse(""), 0).labels.numpy()
    hidden = batch.labels < 0
    assert 80 <= hidden.sum() <= 160  # more than four standard deviations to each side
    assert np.array_equal(batch.labels[~hidden], truth[~hidden])


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
    site: Site,  # noqa: F811
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


def test_progress_is_told_between_slow_messages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    clock = Clock()
    monkeypatch.setattr(produce_module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    told = list(site.produce(2, stop=Waiter(clock), produce__rate=0.2))
    assert len([event for event in told if isinstance(event, events.ProduceProgress)]) > 10


def test_no_message_is_sent_before_it_is_due(site: Site) -> None:  # noqa: F811
    began_ms = time.time() * 1000
    *_, result = site.produce(25, produce__rate=50)
    assert isinstance(result, events.ProduceResult)
    assert result.seconds >= 24 / 50
    records = sorted(site.topic("images").await_records(25), key=lambda record: record.key or b"")
    for number, record in enumerate(records):
        assert record.timestamp_ms >= began_ms + number * 20 - 2  # timestamps are whole milliseconds


def test_full_speed_waits_for_nothing(site: Site) -> None:  # noqa: F811
    """A stop event that cannot be waited for: at rate 0 nobody tries."""

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise AssertionError("it waited")

    *_, result = site.produce(500, stop=Impatient())
    assert isinstance(result, events.ProduceResult)
    assert result.sent == 500
    site.topic("images").await_records(500)


def test_a_stop_ends_it_with_everything_acknowledged(site: Site) -> None:  # noqa: F811
    producing = site.keep_producing(rate=200)
    topic = site.topic("images")
    producing.until(lambda: len(topic.look()) >= 30)
    result = producing.finish()
    assert isinstance(result, events.ProduceResult)
    assert result.failed == 0
    topic.await_records(result.sent)


@pytest.fixture
def frozen() -> Iterator[tuple[EmbeddedBroker, Any]]:
    """A broker of this test's own and a function that makes it stop answering, though it stays connected."""
    with EmbeddedBroker() as own:
        guard = own._guard
        assert guard is not None
        (pid,) = children(guard.pid)
        yield own, lambda: os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)


def test_what_is_not_acknowledged_is_counted_and_is_an_error(
    site: Site,  # noqa: F811
    frozen: tuple[EmbeddedBroker, Any],
) -> None:
    own, freeze = frozen
    site.options["kafka.bootstrap_servers"] = own.bootstrap_servers
    site.options["kafka.options"] = '{"message.timeout.ms": 300}'
    stream = site.produce(20)
    told: list[events.ProduceEvent] = [next(stream)]
    freeze()
    with pytest.raises(BrokerError, match="20 messages were not delivered"):
        told.extend(stream)
    assert isinstance(told[-1], events.ProduceResult)
    assert (told[-1].sent, told[-1].failed) == (0, 20)


def test_the_command_tells_what_failed_before_the_error(
    site: Site,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere(Sender):
        def __init__(self, settings: KafkaSettings, stop: threading.Event | None = None) -> None:
            nowhere = {"bootstrap_servers": "127.0.0.1:1", "options": {"message.timeout.ms": 50}}
            super().__init__(settings.model_copy(update=nowhere), stop)

    monkeypatch.setattr(produce_module, "Sender", Elsewhere)
    ran = site.call("produce", "--count", "5", "--rate", "0", "--json")
    assert ran.exit_code == 5
    assert "5 messages were not delivered" in ran.stderr.splitlines()[-1]
    document = json.loads(ran.stdout)
    assert (document["sent"], document["failed"]) == (0, 5)


@plain_serializers
def test_the_tutorials_consumer_reads_our_json(
    site: Site,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripts = tutorial()
    # Joining a group of the embedded broker takes half of the session.
    quick = functools.partial(scripts.KafkaConsumer, session_timeout_ms=1500, heartbeat_interval_ms=500)
    monkeypatch.setattr(scripts, "KafkaConsumer", quick)
    seen: list[torch.Tensor] = []

    class Seeing(scripts.Net):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            logits: torch.Tensor = super().forward(x)
            return logits

    site.send(12, produce__format="json")
    answers = site.topic("predictions")
    handled = scripts.consume(
        site.kafka.bootstrap_servers, site.topics.images, site.topics.predictions, Seeing(), count=12
    )
    assert handled.messages == 12

    sent = decoded(site.topic("images").await_records(12))
    bodies = {body["id"]: body for body in (json.loads(record.value or b"") for record in answers.await_records(12))}
    assert bodies.keys() == set(sent.ids)
    assert [bodies[id]["label"] for id in sent.ids] == sent.labels.tolist()
    # What reached its network is what its own transform makes of the same pixels.
    wanted = [(torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5 for pixels in sent.pixels]
    for image in seen:
        assert image.shape == (1, 3, 32, 32)
        assert any(torch.allclose(image[0], other, atol=1e-6) for other in wanted)


@plain_serializers
def test_the_tutorials_producer_is_served(site: Site) -> None:  # noqa: F811
    scripts = tutorial()
    images = site.stream_images()
    examples = [
        ((pixels.float() / 255 - 0.5) / 0.5, label)
        for pixels, label in zip(images.pixels[:15], images.labels[:15].tolist(), strict=True)
    ]
    serving = site.serve(max_messages=15)
    serving.until(lambda: serving.of(events.ServeStarted))
    sent = scripts.produce(site.kafka.bootstrap_servers, site.topics.images, examples, count=15, interval=0)
    assert sent.messages == 15
    result = serving.result()
    assert (result.predicted, result.dead_lettered, result.labelled) == (15, 0, 15)

    answers = {answer.id: answer for answer in predictions(site.topic("predictions"))}
    loaded = load(site.registry, "production")
    predictor = Predictor(loaded.model, loaded.manifest.normalisation.mean, loaded.manifest.normalisation.std)
    expected = predictor(images.pixels[:15]).argmax(dim=1).tolist()
    assert answers.keys() == {str(number) for number in range(15)}
    assert [answers[str(number)].label_predicted for number in range(15)] == expected
    assert [answers[str(number)].label for number in range(15)] == images.labels[:15].tolist()


def test_the_command_sends_and_reports(site: Site) -> None:  # noqa: F811
    ran = site.call("produce", "--count", "30", "--rate", "0", "--drift", "invert@10-20", "--json", "--seed", "5")
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document.keys() >= FIELDS
    assert (document["sent"], document["failed"]) == (30, 0)
    assert document["messages_per_second"] == pytest.approx(30 / document["seconds"])
    batch = decoded(site.topic("images").await_records(30))
    expected = streamed(site.stream_images(), 0, 30, Scenario.parse("invert@10-20"), 5)
    assert np.array_equal(batch.pixels, expected.pixels.numpy())
