"""`produce` when the broker is away, when it is stopped, and what its command reports."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Site, children, until
from producing import decoded, streamed

from cifarctl import events
from cifarctl.data import Scenario
from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, lane
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.sender import Sender

FIELDS = {"sent", "failed", "seconds", "messages_per_second", "labels_sent"}


@pytest.fixture
def frozen() -> Iterator[tuple[EmbeddedBroker, Any]]:
    """A broker of this test's own and a function that makes it stop answering, though it stays connected, or answer."""
    with EmbeddedBroker() as own:
        guard = own._guard
        assert guard is not None
        (pid,) = children(guard.pid)

        def freeze(frozen: bool = True) -> None:
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            if frozen:  # a thread may take its time to stop, and answer meanwhile
                until(
                    lambda: all("State:\tT" in task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status"))
                )

        yield own, freeze
        os.kill(pid, signal.SIGCONT)


def test_unacknowledged_messages_are_counted_and_are_an_error(
    site: Site,
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


def test_an_outage_is_waited_for_and_nothing_is_lost(
    site: Site,
    frozen: tuple[EmbeddedBroker, Any],
) -> None:
    """A queue of few messages fills up; what is due waits, is told of, and follows when the broker is back."""
    own, freeze = frozen
    site.options |= {
        "kafka.bootstrap_servers": own.bootstrap_servers,
        "kafka.timeout_s": 1,
        "kafka.options": '{"queue.buffering.max.messages": 50, "socket.timeout.ms": 2000}',
    }
    stream = site.produce(300, produce__rate=500, produce__label_delay=0.1)
    told: list[events.ProduceEvent] = []
    for event in stream:
        told.append(event)
        if isinstance(event, events.ProduceProgress) and event.sent >= 20:
            freeze()
            break
    for event in stream:
        told.append(event)
        if isinstance(event, events.Notice):
            break
    assert "does not acknowledge" in event.message  # type: ignore[union-attr]
    frozen_at = told[-2]
    freeze(False)
    told.extend(stream)
    result = told[-1]
    assert isinstance(result, events.ProduceResult)
    assert (result.sent, result.failed, result.labels_sent, result.labels_failed) == (300, 0, 300, 0)
    assert isinstance(frozen_at, events.ProduceProgress)
    assert frozen_at.sent < 300


def test_a_stop_during_an_outage_waits_for_a_while_only(
    site: Site,
    frozen: tuple[EmbeddedBroker, Any],
) -> None:
    own, freeze = frozen
    site.options |= {
        "kafka.bootstrap_servers": own.bootstrap_servers,
        "kafka.timeout_s": 1,
        "kafka.options": '{"queue.buffering.max.messages": 50}',
    }
    stop = threading.Event()
    stream = site.produce(None, stop=stop, produce__rate=500, produce__label_delay=0.5)
    told: list[events.ProduceEvent] = [next(stream)]
    freeze()
    for event in stream:
        told.append(event)
        if isinstance(event, events.ProduceProgress) and event.queued >= 50 and event.labels_waiting:
            break
    stop.set()
    with pytest.raises(BrokerError, match="50 messages are not acknowledged"):
        told.extend(stream)
    result = told[-1]
    assert isinstance(result, events.ProduceResult)
    assert (result.sent, result.labels_sent) == (0, 0)
    assert result.failed + result.unconfirmed == 50
    assert result.labels_failed + result.labels_unconfirmed == 50


def test_what_was_on_its_way_when_told_to_stop_is_unconfirmed(
    site: Site,
    frozen: tuple[EmbeddedBroker, Any],
) -> None:
    """The broker has some of it, and may take it yet; what is refused or has not been sent has failed."""
    own, freeze = frozen
    site.options |= {"kafka.bootstrap_servers": own.bootstrap_servers, "kafka.timeout_s": 1}
    stop = threading.Event()
    told: list[events.ProduceEvent] = []
    stream = site.produce(None, stop=stop, produce__rate=500)
    for event in stream:
        if isinstance(event, events.ProduceProgress) and event.sent >= 20:
            freeze()
            break
    for event in stream:
        if isinstance(event, events.ProduceProgress) and event.queued >= 50:
            break
    stop.set()
    with pytest.raises(BrokerError, match="may have arrived"):
        told.extend(stream)
    result = told[-1]
    assert isinstance(result, events.ProduceResult)
    assert result.sent >= 20
    assert result.unconfirmed > 0
    assert result.unconfirmed + result.failed >= 50


def test_the_command_tells_what_failed_before_the_error(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere(Sender):
        def __init__(self, settings: KafkaSettings, **options: Any) -> None:
            super().__init__(settings, **options)
            nowhere = {"bootstrap_servers": "127.0.0.1:1", "options": {"message.timeout.ms": 2000}}
            self.producer = clients.producer(settings.model_copy(update=nowhere))

    monkeypatch.setattr(lane, "Sender", Elsewhere)
    ran = site.call("produce", "--count", "5", "--rate", "0", "--json")
    assert ran.exit_code == 5
    assert "5 messages were not delivered" in ran.stderr.splitlines()[-1]
    document = json.loads(ran.stdout)
    assert (document["sent"], document["failed"]) == (0, 5)


def test_the_command_sends_and_reports(site: Site) -> None:
    ran = site.call("produce", "--count", "30", "--rate", "0", "--drift", "invert@10-20", "--json", "--seed", "5")
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document.keys() >= FIELDS
    assert (document["sent"], document["failed"]) == (30, 0)
    assert document["messages_per_second"] == pytest.approx(30 / document["seconds"])
    batch = decoded(site.topic("images").await_records(30))
    expected = streamed(site.stream_images(), 0, 30, Scenario.parse("invert@10-20"), 5)
    assert np.array_equal(batch.pixels, expected.pixels.numpy())


def test_the_command_sends_labels_later(site: Site) -> None:
    arguments = ("produce", "--count", "20", "--rate", "0", "--format", "png", "--label-delay", "0.1", "--json")
    ran = site.call(*arguments)
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert (document["sent"], document["labels_sent"], document["labels_failed"]) == (20, 20, 0)
    assert "online.label_wait" not in ran.stderr
    batch = decoded(site.topic("images").await_records(20))
    assert np.array_equal(batch.pixels, streamed(site.stream_images(), 0, 20, Scenario.parse(""), 0).pixels.numpy())
    site.topic("labels").await_records(20)
    ran = site.call(*arguments, online__label_wait=0.05)
    assert "keep images for only 0.05 s" in ran.stderr
