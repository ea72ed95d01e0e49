"""A learner on a stream that brings more than it can learn from."""

from __future__ import annotations

from typing import Any

import pytest
from processes import Flow, Site

from cifarctl import events
from cifarctl.flows import learn
from cifarctl.learning import examples
from cifarctl.learning.learner import Learner
from cifarctl.stream.records import Record
from cifarctl.stream.source import Source

EVERY = 60
QUICK: dict[str, Any] = {
    "online__update_every": EVERY,
    "online__min_examples": 30,
    "online__buffer_size": 400,
    "online__reference_size": 300,
    "online__steps": 1,
    "online__niceness": 0,
}


def learner(site: Site, **online: Any) -> Flow[events.LearnEvent]:
    chosen = site.settings(**QUICK | {f"online__{name}": value for name, value in online.items()})
    return site._keep(Flow(lambda stop: learn.learn(chosen, stop)))


def test_a_backlog_is_seen_before_anything_is_learned_from_it(site: Site) -> None:
    """The first update comes within the batch with which it is nearly gone."""
    site.send(900)
    learning = learner(site)
    learning.until(lambda: learning.of(events.RetrainStarted))
    assert learning.of(events.RetrainStarted)[0].examples > 900 - examples.READ - EVERY
    learning.finish()


def test_what_comes_during_an_update_is_seen_before_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a batch that has been read already would make another one due."""

    def lag(_: Source) -> int:
        return 4 * examples.READ if learning.of(events.RetrainResult) else 0

    monkeypatch.setattr(Source, "lag", lag)
    site.send(examples.READ)
    learning = learner(site, update_every=2 * examples.READ, update_interval=0.001)  # due whenever 32 have come
    learning.until(lambda: any(status.labelled == examples.READ for status in learning.of(events.LearnerStatus)))
    learning.finish()
    (first,) = learning.of(events.RetrainResult)
    assert first.examples < examples.READ


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each read will have given, and so how large the bursts are that come; none is unread."""
    found: list[int] = []
    original = Source.read

    def read(source: Source, most: int, seconds: float) -> list[Record]:
        records = original(source, most, seconds)
        found.append(len(records))
        return records

    monkeypatch.setattr(Source, "read", read)
    monkeypatch.setattr(Source, "lag", lambda _: 0)
    return found


def test_a_burst_is_seen_before_anything_is_learned_from_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reads(monkeypatch)
    site.send(examples.READ)
    learning = learner(site)
    learning.until(lambda: sum(found) == examples.READ and bool(learning.of(events.RetrainResult)))
    learning.finish()
    assert len(learning.of(events.RetrainResult)) <= len([count for count in found if count])
    assert examples.READ > 4 * EVERY


def test_a_burst_without_labels_is_learned_from_once_it_has_been_seen(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads(monkeypatch)
    monkeypatch.setattr(
        Learner, "_due_without_labels", lambda own: None if own.progress.behind or own.updates else "a burst"
    )
    site.send(examples.READ, produce__unlabelled=1.0)
    learning = learner(site)
    learning.until(lambda: learning.of(events.RetrainStarted))
    learning.finish()
    assert learning.of(events.RetrainStarted)[0].trigger == "a burst"
