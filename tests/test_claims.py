"""A learner's state belongs to a stream: which learner moves an alias, and which checkpoint and epochs are its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from apache_kafka import ApacheKafka
from fixtures_kafka import own_settings
from helpers import Home, draft, open_registry, small_data
from processes import SMALL, Flow, Site, until

from cifarctl import events
from cifarctl.data import Images
from cifarctl.errors import AliasClaimed, Superseded
from cifarctl.flows import learn
from cifarctl.learning.decisions import Decisions
from cifarctl.learning.learner import CHECKPOINT, Learner
from cifarctl.registry.claims import Claim, Stream
from cifarctl.registry.requests import Requests
from cifarctl.settings import OnlineSettings
from cifarctl.stream.leader_election import Seat

ONLINE = OnlineSettings(buffer_size=200, reference_size=200, validation_size=100, min_examples=10_000)
MINE = Stream(None, "cifar", "cifarctl", "production")
OTHERS = [
    replace(MINE, prefix="other"),
    replace(MINE, group="other"),
    replace(MINE, cluster="Kp0sVJqpTo2jbZyPlXXqJA"),
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_one_stream_at_a_time_moves_an_alias(tmp_path: Path, other: Stream) -> None:
    """Another learner of it stands by; that of another stream is refused, and told why and what to do."""
    first, second, stranger = (Claim(tmp_path, stream) for stream in (MINE, MINE, other))
    assert not first.taken()
    assert first.hold()
    assert second.taken()
    assert not second.hold()
    with pytest.raises(
        AliasClaimed, match=r"the alias production in .* is already moved by the learner of the topics"
    ) as it:
        stranger.hold()
    assert it.value.exit_code == 4
    assert all(remedy in str(it.value) for remedy in ("registry.dir", "serve.alias"))
    first.release()
    assert stranger.hold()
    with pytest.raises(AliasClaimed):
        first.taken()
    stranger.release()


def test_another_alias_is_free(tmp_path: Path) -> None:
    claims = [Claim(tmp_path, stream) for stream in (MINE, replace(MINE, prefix="other", alias="staging"))]
    assert [claim.hold() for claim in claims] == [True, True]
    for claim in claims:
        claim.release()


def test_the_claim_of_a_killed_learner_is_free_at_once(tmp_path: Path) -> None:
    words = (
        "import sys, time; from pathlib import Path; from cifarctl.registry.claims import Claim, Stream; "
        "claim = Claim(Path(sys.argv[1]), Stream(None, 'other', 'g', 'production')); "
        "print(claim.hold(), flush=True); time.sleep(600)"
    )
    mine = Claim(tmp_path, MINE)
    with subprocess.Popen([sys.executable, "-c", words, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            with pytest.raises(AliasClaimed):
                mine.hold()
        finally:
            other.kill()
    assert mine.hold()
    mine.release()


def learner(home: Home, stream: Stream | None, epoch: int | None = None) -> Learner:
    return Learner(
        home.registry,
        ONLINE,
        stream.alias if stream else "production",
        reference=home.dataset.train.take(home.split.train[: ONLINE.reference_size]),
        validation=home.dataset.train.take(home.split.validation),
        epoch=epoch,
        stream=stream,
    )


def show(learner: Learner, home: Home, name: str, count: int = 30) -> None:
    images: Images = home.dataset.train.take(home.split.stream[:count])
    list(learner.learn([f"{name}-{number}" for number in range(count)], images))
    learner.save()


def test_each_stream_has_a_checkpoint_of_its_own(home: Home) -> None:
    for number, stream in enumerate([MINE, *OTHERS], start=1):
        with closing(learner(home, stream)) as own:
            assert own.buffer.labelled == 0
            show(own, home, f"{number}", number * 10)
    for number, stream in enumerate([MINE, *OTHERS], start=1):
        with closing(learner(home, stream)) as own:
            assert own.buffer.labelled == number * 10


def test_a_checkpoint_of_before_belongs_to_the_first_stream_that_moves_the_same_alias(home: Home) -> None:
    with closing(learner(home, None)) as before:
        show(before, home, "a")
    assert (home.registry.dir / "learner" / CHECKPOINT).exists()
    home.registry.promote(1, alias="staging", who="test", why="first")
    for stream, labelled in ((replace(MINE, alias="staging"), 0), (MINE, 30), (OTHERS[0], 0), (MINE, 30)):
        with closing(learner(home, stream)) as own:
            assert own.buffer.labelled == labelled


def test_gc_removes_checkpoints_of_streams_that_have_given_up_their_alias(tmp_path: Path) -> None:
    registry = open_registry(tmp_path, keep_hours=2)
    files = {stream: tmp_path / "learner" / stream.checkpoint for stream in [*OTHERS, MINE]}
    for stream, path in files.items():
        claim = Claim(tmp_path, stream)
        assert claim.hold()
        claim.release()
        path.write_bytes(b"state")
        old = time.time() - 3 * 3600
        os.utime(path, (old, old))
    recent = files[OTHERS[0]]
    os.utime(recent)
    gone = {files[OTHERS[1]], files[OTHERS[2]]}
    assert {removed.path for removed in registry.gc(dry_run=True)} == gone
    assert all(path.exists() for path in files.values())
    assert {removed.path for removed in registry.gc()} == gone
    assert {path for path in files.values() if path.exists()} == {files[MINE], recent}
    (tmp_path / "learner" / "production.stream.json").write_bytes(b"{")
    os.utime(recent, (old, old))
    assert registry.gc() == [], "whose the alias is, is not known"


def test_a_checkpoint_that_was_copied_from_another_stream_is_left_aside(home: Home) -> None:
    with closing(learner(home, MINE)) as mine, closing(learner(home, OTHERS[0])) as other:
        show(mine, home, "a")
        other.checkpoint.write_bytes(mine.checkpoint.read_bytes())
    with closing(learner(home, OTHERS[0])) as other:
        assert other.buffer.labelled == 0


def test_each_alias_has_epochs_of_its_own(home: Home) -> None:
    """Those of an alias go on where the one number for all aliases has ended."""
    registry = home.registry
    registry.promote(1, alias="staging", who="test", why="first", epoch=7)
    (registry.dir / "learner").mkdir(exist_ok=True)
    (registry.dir / "learner" / "epoch").write_text("4\n")
    assert registry.next_epoch() == 5
    registry.begin_epoch(5)
    assert registry.next_epoch(alias="staging") == 8
    registry.begin_epoch(8, alias="staging")
    for epoch, alias in ((5, "production"), (8, "staging")):
        with registry.in_epoch(epoch, alias=alias):
            pass
    with pytest.raises(Superseded), registry.in_epoch(7, alias="staging"):
        pass


def test_requests_are_those_of_an_alias(tmp_path: Path) -> None:
    name = Requests(tmp_path, "staging").ask()
    assert (Requests(tmp_path).waiting(), Requests(tmp_path, "staging").waiting()) == ([], [name])


def test_whose_the_newest_move_is(home: Home) -> None:
    """A learner's own line, which was killed between its checkpoint and now, is nobody else."""
    home.registry.publish(draft(), b"weights")
    decisions = Decisions(home.registry, "production", 1, lambda _: None)
    decisions.carry_out("promote", 2, "better", champion=1, now=100)
    assert decisions.mover == "the learner before this one"
    home.registry.promote(1, who="somebody", why="by hand")
    assert decisions.mover == "somebody else"


# --- on Apache Kafka


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
        started.append(Flow(lambda stop: learn.follow(settings, stop)))
        return started[-1]

    yield start
    for flow in started:
        flow.clean_up()


def labelled(learner: Flow[events.LearnEvent]) -> int:
    """Images that it has learned from."""
    return max((status.labelled for status in learner.of(events.LearnerStatus)), default=-1)


@pytest.mark.apache
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


@pytest.mark.apache
def test_who_waits_for_a_seat_says_that_no_learner_is_at_work(
    sites: list[Site], following: Callable[..., Flow[events.LearnEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a learner was killed: the broker has not missed it yet, but no other learner is to be blamed."""
    monkeypatch.setattr(learn, "JOINING", 0.5)
    site = sites[0]
    with closing(Seat(site.kafka)) as killed:
        until(lambda: killed.wait(0.2))
        waiting = following(site)
        waiting.until(lambda: waiting.of(events.Notice))
        (notice,) = waiting.of(events.Notice)
        assert f"none works on {site.registry.dir}" in notice.message
        assert f"the seat on {site.topics.learner} is not free" in notice.message
        assert "another learner is at work" not in notice.message
    waiting.until(lambda: waiting.of(events.LearnerStarted))
