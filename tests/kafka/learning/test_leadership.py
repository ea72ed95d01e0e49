"""One learner at a time, and what becomes of the decisions of the one before."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import pytest
from apache_kafka import ApacheKafka
from fixtures_kafka import own_settings
from helpers import draft
from processes import Site, until

from cifarctl.errors import Superseded
from cifarctl.learning.leadership import KafkaLeadership, RegistryLeadership, open_leadership
from cifarctl.registry import Move, Registry
from cifarctl.registry.claims import Stream
from cifarctl.settings import KafkaSettings, RegistrySettings, Settings
from cifarctl.stream import browse, clients
from cifarctl.stream.leader_election import Candidate
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source

PATIENCE_S = 60.0
STREAM = Stream(None, "cifar", "cifarctl", "production")


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    """The shared node; a member that is suspended is missed after a second or so."""
    return own_settings(apache, session_timeout_ms=6000, partitions=1)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, the first in production."""
    registry = Registry(RegistrySettings(dir=tmp_path / "registry"))
    for _ in range(2):
        registry.publish(draft(), b"weights")
    registry.promote(1, who="test", why="first")
    return registry


def patient() -> None:
    """Nothing is told while the broker does not answer."""


def promotion(registry: Registry, epoch: int) -> Move:
    alias = registry.alias("production")
    assert alias is not None
    return Move(
        time="2026-01-01T00:00:00+00:00",
        alias="production",
        action="promote",
        from_version=alias.version,
        to_version=2,
        who="learner",
        why="better",
        generation=alias.generation + 1,
        epoch=epoch,
        at=100,
    )


def log(kafka: KafkaSettings) -> list[Any]:
    topic = clients.Topics.of(kafka.topic_prefix).learner
    return [json.loads(record.value or b"") for record in browse.read(kafka, topic)]


# --- where there are no transactions


def test_leadership_goes_by_what_the_broker_can_do(registry: Registry, kafka: KafkaSettings) -> None:
    for delivery, kind in (
        ("auto", KafkaLeadership),
        ("exactly-once", KafkaLeadership),
        ("at-least-once", RegistryLeadership),
    ):
        own = kafka.model_copy(update={"delivery": delivery})
        with open_leadership(Settings(kafka=own, registry=RegistrySettings(dir=registry.dir))) as leadership:
            assert isinstance(leadership, kind)


# --- on Apache Kafka


class Closeable(Protocol):
    def close(self) -> None: ...


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Closes at the end what a test opens."""
    with ExitStack() as stack:

        def keep(thing: Closeable) -> Closeable:
            return stack.enter_context(closing(thing))

        yield keep


def test_one_learner_leads_and_the_next_one_takes_over(
    registry: Registry, kafka: KafkaSettings, opened: Callable[..., Any]
) -> None:
    first, second = (opened(KafkaLeadership(registry, kafka, STREAM)) for _ in range(2))
    assert not first.taken
    assert first.wait(PATIENCE_S)
    assert first.take(patient) == 1
    assert second.taken
    assert not second.wait(2)
    assert first.held
    first.close()
    assert second.wait(PATIENCE_S)
    assert second.take(patient) == 2
    assert [entry["began"] for entry in log(kafka)] == [1, 2]


def test_a_former_leader_decides_nothing(kafka: KafkaSettings, opened: Callable[..., Any]) -> None:
    """As a process that wakes from a suspension: it believes that it is still the leader."""
    first, second = (opened(Candidate(kafka)) for _ in range(2))
    assert first.wait(PATIENCE_S)
    assert first.take(patient) == []
    first.commit(b'"counts"', patient)
    assert second.take(patient) == [b'"counts"']
    with pytest.raises(Superseded, match="no longer the leader"):
        first.commit(b'"does not count"', patient)
    second.commit(b'"counts as well"', patient)
    assert log(kafka) == ["counts", "counts as well"]


def test_a_decision_that_was_not_carried_out_is_carried_out_by_the_next_one(
    registry: Registry, kafka: KafkaSettings, opened: Callable[..., Any]
) -> None:
    first, second, third = (opened(KafkaLeadership(registry, kafka, STREAM)) for _ in range(3))
    topics = clients.Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.learner])
    source = opened(Source(kafka, [topics.images], group_id=f"{kafka.group_id}.learner"))
    move = promotion(registry, first.take(patient))
    first.commit(move, {}, source, patient)  # and then it dies
    assert registry.resolve("production") == 1
    assert second.take(patient) == 2
    (carried_out,) = [known for known in registry.history() if known.who == "learner"]
    assert carried_out.same(move)
    assert registry.resolve("production") == 2

    registry.promote(1, who="somebody", why="by hand")
    assert third.take(patient) == 3  # what was decided then is done with
    assert registry.resolve("production") == 1


def test_offsets_are_committed_with_the_decision_or_not_at_all(
    registry: Registry, kafka: KafkaSettings, opened: Callable[..., Any]
) -> None:
    leadership = opened(KafkaLeadership(registry, kafka, STREAM))
    topics, group = clients.Topics.of(kafka.topic_prefix), f"{kafka.group_id}.learner"
    clients.ensure_topics(kafka, [topics.images, topics.learner])
    sender = Sender(kafka)
    for _ in range(3):
        sender.send(topics.images, b"key", bytes(3072))
    sender.close(PATIENCE_S)
    source = opened(Source(kafka, [topics.images], group_id=group))
    until(lambda: source.read(10, 0.2))
    epoch = leadership.take(patient)
    leadership.commit(promotion(registry, epoch), {(topics.images, 0): 2}, source, patient)
    assert browse.committed(kafka, topics.images, group) == {0: 2}

    stranger = opened(Source(kafka, [topics.images], group_id=group))  # no member, as long as it does not read
    with pytest.raises(Superseded):
        leadership.commit(promotion(registry, epoch), {(topics.images, 0): 3}, stranger, patient)
    assert browse.committed(kafka, topics.images, group) == {0: 2}
    assert [entry.get("decided", {}).get("action") for entry in log(kafka)] == [None, "promote"]


def test_decisions_about_another_registry_are_none_of_ours(
    registry: Registry, kafka: KafkaSettings, opened: Callable[..., Any], tmp_path: Path
) -> None:
    other = Registry(RegistrySettings(dir=tmp_path / "other"))
    for _ in range(2):
        other.publish(draft(), b"weights")
    other.promote(1, who="test", why="first")
    first, second = opened(KafkaLeadership(registry, kafka, STREAM)), opened(KafkaLeadership(other, kafka, STREAM))
    topics = clients.Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.learner])
    source = opened(Source(kafka, [topics.images], group_id=f"{kafka.group_id}.learner"))
    first.commit(promotion(registry, first.take(patient)), {}, source, patient)
    assert second.take(patient) == 1
    assert other.resolve("production") == 1


@pytest.mark.long
def test_a_learner_that_was_suspended_stands_by_when_it_wakes(site: Site) -> None:
    small: dict[str, Any] = {
        "online__update_every": 100,
        "online__min_examples": 100,
        "online__buffer_size": 400,
        "online__reference_size": 500,
        "online__steps": 20,
        "online__strategy": "replay",
        "kafka__group_protocol": "classic",
    }
    learners = [site.start("retrain", "--follow", "--no-dashboard", **small) for _ in range(2)]
    until(lambda: any("learner started" in learner.out for learner in learners), lambda: learners[0].err)
    active, standby = sorted(learners, key=lambda learner: "learner started" not in learner.out)
    standby.until(lambda: "this one stands by" in standby.out)
    assert "learner started" not in standby.out

    active.signal(signal.SIGSTOP)
    standby.until(lambda: "learner started" in standby.out)
    for shown in range(80, 481, 80):  # never so many at once that they are all taken in before an update
        site.send(80, drift="invert@0-1000000")
        standby.until(lambda: f"labelled {shown} " in standby.out)  # noqa: B023  awaited here
    standby.until(lambda: "promoted version" in standby.out)
    active.signal(signal.SIGCONT)
    active.until(lambda: "once it is the leader again" in active.out)
    assert "promoted version" not in active.out

    epochs = {move.epoch for move in site.registry.history() if move.who == "learner"}
    assert epochs == {2}
    for learner in learners:
        learner.signal(signal.SIGTERM)
        assert learner.wait() == 0, learner.err
