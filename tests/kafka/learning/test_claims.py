"""Learners of several streams on one registry, on Apache Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from apache_kafka import ApacheKafka
from fixtures_kafka import own_settings
from helpers import Home, small_data
from processes import SMALL, Flow, Site, until

from cifarctl import events
from cifarctl.flows import learn
from cifarctl.stream.leader_election import Candidate


@pytest.fixture
def sites(home: Home, tmp_path: Path, apache: ApacheKafka) -> Iterator[list[Site]]:
    """Two prefixes with a group each, of both protocols, on one registry."""
    quick = SMALL | dict(option.removeprefix("--set=").split("=") for option in small_data())
    quick |= {"online.buffer_size": 200, "online.reference_size": 200, "online.min_examples": 10_000}
    found = []
    for protocol in ("classic", "consumer"):
        kafka = own_settings(apache, group_protocol=protocol, session_timeout_ms=6000, partitions=1)
        names = ("bootstrap_servers", "topic_prefix", "group_id", "group_protocol", "session_timeout_ms", "partitions")
        own = {f"kafka.{name}": getattr(kafka, name) for name in names}
        found.append(Site(tmp_path, kafka, quick | own | {"registry.dir": home.registry.dir, "online.niceness": 0}))
    threads = torch.get_num_threads()
    yield found
    for site in found:
        site.clean_up()
    torch.set_num_threads(threads)


@pytest.fixture
def following() -> Iterator[Callable[..., Flow[events.LearnEvent]]]:
    """Starts learners of their own, which end with the test."""
    started: list[Flow[events.LearnEvent]] = []

    def start(site: Site, **changes: Any) -> Flow[events.LearnEvent]:
        settings = site.settings(**changes)
        started.append(Flow(lambda stop: learn.learn(settings, stop)))
        return started[-1]

    yield start
    for flow in started:
        flow.clean_up()


def labelled(learner: Flow[events.LearnEvent]) -> int:
    """Images that it has learned from."""
    return max((status.labelled for status in learner.of(events.LearnerStatus)), default=-1)


def test_two_prefixes_on_one_registry_neither_depose_nor_inherit(
    sites: list[Site], following: Callable[..., Flow[events.LearnEvent]]
) -> None:
    """The second is refused, once, and its predictions go on; when the first has ended it begins from nothing."""
    first, second = sites
    first.send(40)
    second.send(3)
    working = following(first)
    working.until(lambda: labelled(working) == 40)

    serving = second.serve(online=True)
    serving.until(lambda: serving.of(events.LearnerDown))
    (down,) = serving.of(events.LearnerDown)
    assert down.delay is None
    assert f"is already moved by the learner of the topics {first.kafka.topic_prefix}.*" in down.reason
    refused = second.call("retrain", "--json")
    assert refused.exit_code == 4, refused.stderr
    assert "serve.alias" in refused.stderr
    second.send(5)
    serving.until(lambda: sum(len(batch.ids) for batch in serving.of(events.BatchServed)) == 8)

    first.registry.promote(1, alias="staging", who="test", why="an alias of its own")
    beside = following(second, serve__alias="staging")
    beside.until(lambda: labelled(beside) == 8)
    first.send(5)
    working.until(lambda: labelled(working) == 45)
    assert not working.of(events.Notice)
    assert len(working.of(events.LearnerStarted)) == 1
    assert len(serving.of(events.LearnerDown)) == 1
    assert not serving.of(events.LearnerStarted)
    for flow in (beside, serving, working):
        flow.finish()

    after = following(second)
    after.until(lambda: after.of(events.LearnerStarted))
    assert after.of(events.LearnerStarted)[0].size == 0
    after.finish()
    again = following(first)
    again.until(lambda: labelled(again) == 45)
    assert again.of(events.LearnerStarted)[0].size > 0


def test_a_waiting_candidate_reports_that_no_learner_is_at_work(
    sites: list[Site], following: Callable[..., Flow[events.LearnEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a learner was killed: the broker has not missed it yet, but no other learner is to be blamed."""
    monkeypatch.setattr(learn, "JOINING", 0.5)
    site = sites[0]
    with closing(Candidate(site.kafka)) as killed:
        until(lambda: killed.wait(0.2))
        waiting = following(site)
        waiting.until(lambda: waiting.of(events.Notice))
        (notice,) = waiting.of(events.Notice)
        assert f"no learner works on {site.registry.dir}" in notice.message
        assert f"leadership on {site.topics.learner} is taken" in notice.message
        assert "another learner is at work" not in notice.message
    waiting.until(lambda: waiting.of(events.LearnerStarted))
