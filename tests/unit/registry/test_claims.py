"""A learner's state belongs to a stream: which learner moves an alias, and which checkpoint and epochs are its own."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Home, draft, open_registry

from cifarctl.data import Images
from cifarctl.errors import AliasClaimed, Superseded
from cifarctl.learning.checkpoints import CHECKPOINT
from cifarctl.learning.decisions import Decisions
from cifarctl.learning.learner import Learner
from cifarctl.registry.claims import Claim, Stream
from cifarctl.registry.requests import Requests
from cifarctl.settings import OnlineSettings

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
        other.file.path.write_bytes(mine.file.path.read_bytes())
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
