"""`dead-letters list` and `replay` on the embedded broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest
from dead_letters import ALL, counts, letter, run, send, sent_back
from letters_anywhere import (  # noqa: F401  (tests that run here too)
    test_a_digest_is_exchanged_for_its_original,
    test_a_digest_whose_original_is_another_one_is_not_sent,
    test_a_dry_run_sends_nothing,
    test_a_letter_goes_back_as_it_came_once,
    test_a_list_tells_all_of_a_letter,
    test_a_tombstone_goes_back_as_one,
    test_letters_go_back_to_where_each_came_from,
    test_many_letters_go_back_once_and_in_order,
    test_some_letters_go_back,
    test_what_fails_again_can_go_back_again,
    with_topics,
)

from cifarctl.errors import BrokerError
from cifarctl.flows.dead_letters import examine, replay
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.sender import Sender


@pytest.fixture(params=["kafka"])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    return with_topics(request.getfixturevalue(request.param))


def test_what_a_list_chooses(kafka: KafkaSettings) -> None:
    topics = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.dead_letters])
    assert "no dead letters" in run(kafka, "list").stdout
    send(kafka, [letter(kafka, number, "NotJson" if number % 2 else "BadLabel") for number in range(20)])
    assert len(json.loads(run(kafka, "list", "--json").stdout)) == 20
    odd = json.loads(run(kafka, "list", "--json", "--class", "NotJson").stdout)
    assert sorted(row["source"]["offset"] for row in odd) == list(range(1, 20, 2))
    assert json.loads(run(kafka, "list", "--json", "--since", f"@{time.time() + 3600:.0f}").stdout) == []
    assert len(json.loads(run(kafka, "list", "--json", "--since", "2001-01-01T00:00:00Z").stdout)) == 20
    assert json.loads(run(kafka, "list", "--json", "--class", "WrongLength").stdout) == []
    assert len(json.loads(run(kafka, "list", "--json", "--class", "BadLabel").stdout)) == 10  # of another program
    for command in (["list"], ["replay"]):
        unknown = run(kafka, *command, "--class", "NotJsn")
        assert (unknown.exit_code, unknown.stdout) == (2, "")
        assert "--class NotJsn: there is no such error class; did you mean NotJson?" in unknown.stderr
    limited = run(kafka, "list", "--json", "--limit", "3")
    rows = json.loads(limited.stdout)
    assert len(rows) == 3
    assert rows == sorted(rows, key=lambda row: (row["time"], row["partition"], row["offset"]))
    assert "3 of 20" in limited.stderr


def test_a_list_is_of_the_youngest(kafka: KafkaSettings) -> None:
    clients.ensure_topics(kafka, [Topics.of(kafka.topic_prefix).dead_letters])
    for number in range(3):
        send(kafka, [letter(kafka, number)])  # acknowledged, so the next is younger or as old
    rows, chosen = examine(kafka, ALL, 1)
    assert chosen == 3
    times = [row.time for row in examine(kafka, ALL, 3)[0]]
    assert [row.time for row in rows] == [max(times, key=str)]


def test_foreign_messages_are_letters_that_cannot_steer_a_terminal(kafka: KafkaSettings) -> None:
    topic = Topics.of(kafka.topic_prefix).dead_letters
    clients.ensure_topics(kafka, [topic])
    sender = Sender(kafka)
    sender.send(
        topic, b"\x1b[2J\xff", None, [("cifarctl.source.partition", b"-1"), ("cifarctl.error.message", b"\x1b]0;")]
    )
    sender.close(10)
    result = run(kafka, "list")
    assert result.exit_code == 0, result.stderr
    assert "unknown" in result.stdout
    assert "\x1b]" not in result.stdout
    assert "\x1b[2J" not in result.stdout
    replayed = replay(kafka, ALL)
    assert counts(replayed) == (0, 0, 1)
    assert "where it came from" in replayed.problems[0]


@pytest.mark.parametrize("arguments", [["list"], ["replay", "--all"]])
def test_a_wrong_prefix_is_told(kafka: KafkaSettings, arguments: list[str]) -> None:
    result = run(kafka, *arguments)
    assert result.exit_code == 5
    assert "kafka.topic_prefix" in result.stderr


class AfterFirst(threading.Event):
    """Does something once the first batch is through, and then says whether to stop."""

    def __init__(self, action: Callable[[], None], stop: bool) -> None:
        super().__init__()
        self._action, self._stop = action, stop

    def is_set(self) -> bool:
        self._action()
        return self._stop


def test_told_to_stop_it_ends_between_two_letters(kafka: KafkaSettings) -> None:
    topics = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.dead_letters])
    send(kafka, [letter(kafka, number) for number in range(3)])
    assert counts(replay(kafka, ALL, stop=AfterFirst(lambda: None, True))) == (1, 0, 0)
    assert counts(replay(kafka, ALL)) == (2, 1, 0)
    assert sum(sent_back(kafka).values()) == 3


def test_a_broker_that_goes_away_is_an_error_with_counts() -> None:
    with EmbeddedBroker() as own:
        settings = KafkaSettings(bootstrap_servers=own.bootstrap_servers, timeout_s=1)
        topics = Topics.of(settings.topic_prefix)
        clients.ensure_topics(settings, [topics.images, topics.dead_letters])
        send(settings, [letter(settings, number) for number in range(3)])
        with pytest.raises(BrokerError, match=r"1 of 3 letters were sent back.*kafka\.bootstrap_servers"):
            replay(settings, ALL, stop=AfterFirst(own.stop, False))
