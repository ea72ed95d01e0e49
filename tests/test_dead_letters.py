"""`dead-letters list` and `replay`: what they show, what they send back, and that they do so once."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from helpers import cifarctl
from typer.testing import Result

from cifarctl.errors import BrokerError
from cifarctl.flows.dead_letters import Choice, examine, replay
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients, codecs, letters
from cifarctl.stream.clients import Topics
from cifarctl.stream.codecs import DeadLetter, Headers, Record
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.returns import Return, Returns
from cifarctl.stream.sender import Sender

ON_EMBEDDED = pytest.param("kafka", marks=pytest.mark.broker)
ON_APACHE = pytest.param("apache_kafka_settings", marks=pytest.mark.apache)
ALL = Choice()
HALF = (0.5, 0.5, 0.5)
HEADERS: Headers = [("content-type", b"application/x-cifar-raw"), ("id", b"seven"), ("label", b"11"), ("none", None)]


@pytest.fixture(params=[ON_EMBEDDED, ON_APACHE])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    """A place on each broker in turn, with topics."""
    settings: KafkaSettings = request.getfixturevalue(request.param)
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.labels, topics.dead_letters])
    return settings


def letter(settings: KafkaSettings, number: int, error: str = "WrongLength", **changes: Any) -> DeadLetter:
    """A letter about a record that may never have lain in the images topic."""
    fields = {
        "topic": Topics.of(settings.topic_prefix).images,
        "partition": 2,
        "offset": number,
        "timestamp_ms": 1_700_000_000_000,
        "key": b"key-%d" % number,
        "value": b"value %d" % number,
        "headers": tuple(HEADERS),
    }
    return DeadLetter(Record(**fields | changes), "decode", error, f"{number} is no image")


def send(settings: KafkaSettings, letters: Sequence[DeadLetter]) -> None:
    """Put them where `serve` puts them."""
    sender = Sender(settings)
    for each in letters:
        sender.send(Topics.of(settings.topic_prefix).dead_letters, *codecs.dead_letter_message(each))
    sender.close(10)


def images(settings: KafkaSettings) -> list[Record]:
    topic = Topics.of(settings.topic_prefix).images
    browse.await_decided(settings, topic)
    return list(browse.read(settings, topic))


def sent_back(settings: KafkaSettings) -> Counter[bytes | None]:
    """The keys of the images topic."""
    return Counter(record.key for record in images(settings))


def counts(result: Any) -> tuple[int, int, int]:
    return result.replayed, result.skipped, result.failed


def place_of(settings: KafkaSettings, key: str) -> tuple[int, int]:
    """Where the letter about `key` lies."""
    topic = Topics.of(settings.topic_prefix).dead_letters
    (found,) = [(r.partition, r.offset) for r in browse.read(settings, topic) if r.key == key.encode()]
    return found


def run(settings: KafkaSettings, *arguments: str) -> Result:
    given = {"bootstrap_servers": settings.bootstrap_servers, "topic_prefix": settings.topic_prefix}
    options = [f"--set=kafka.{name}={value}" for name, value in given.items()]
    return cifarctl("dead-letters", *arguments, *options)


def test_a_list_tells_all_of_a_letter(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, 7)])
    result = run(anywhere, "list", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    partition, offset = place_of(anywhere, "key-7")
    assert row.pop("time").startswith("20")
    assert row == {
        "partition": partition,
        "offset": offset,
        "id": "seven",
        "class": "WrongLength",
        "message": "7 is no image",
        "stage": "decode",
        "source": {"topic": Topics.of(anywhere.topic_prefix).images, "partition": 2, "offset": 7},
        "size": len("value 7"),
        "digested": False,
        "replayed": False,
    }
    shown = run(anywhere, "list").stdout
    for text in (f"{partition}:{offset}", "seven", "WrongLength: 7", "2:7", "decode, 7"):
        assert text in shown


@pytest.mark.broker
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


@pytest.mark.broker
def test_a_list_is_of_the_youngest(kafka: KafkaSettings) -> None:
    clients.ensure_topics(kafka, [Topics.of(kafka.topic_prefix).dead_letters])
    for number in range(3):
        send(kafka, [letter(kafka, number)])  # acknowledged, so the next is younger or as old
    rows, chosen = examine(kafka, ALL, 1)
    assert chosen == 3
    times = [row.time for row in examine(kafka, ALL, 3)[0]]
    assert [row.time for row in rows] == [max(times, key=str)]


@pytest.mark.broker
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


def test_a_letter_goes_back_as_it_came_once(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, 7)])
    partition, offset = place_of(anywhere, "key-7")
    result = run(anywhere, "replay", "--all", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert {name: document[name] for name in ("replayed", "skipped", "failed")} == {
        "replayed": 1,
        "skipped": 0,
        "failed": 0,
    }
    (record,) = images(anywhere)
    assert (record.key, record.value) == (b"key-7", b"value 7")
    assert list(record.headers) == [*HEADERS, ("cifarctl.replayed-from", b"%d:%d" % (partition, offset))]

    assert counts(replay(anywhere, ALL)) == (0, 1, 0)
    assert len(images(anywhere)) == 1
    (row,) = json.loads(run(anywhere, "list", "--json").stdout)
    assert row["replayed"]
    assert "replayed" in run(anywhere, "list").stdout
    assert counts(replay(anywhere, ALL, again=True)) == (1, 0, 0)
    assert sent_back(anywhere) == {b"key-7": 2}


def test_many_letters_go_back_once_and_in_order(anywhere: KafkaSettings) -> None:
    count = 1200 if anywhere.bootstrap_servers and not clients.check(anywhere).embedded else 60
    send(anywhere, [letter(anywhere, number, key=b"same") for number in range(count)])
    assert counts(replay(anywhere, ALL)) == (count, 0, 0)
    assert [record.value for record in images(anywhere)] == [b"value %d" % number for number in range(count)]
    assert counts(replay(anywhere, ALL)) == (0, count, 0)


def test_some_letters_go_back(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, number, "NotJson" if number < 3 else "BadLabel") for number in range(6)])
    assert counts(replay(anywhere, Choice(error="NotJson"))) == (3, 0, 0)
    assert sent_back(anywhere) == {b"key-0": 1, b"key-1": 1, b"key-2": 1}
    four, zero = (":".join(map(str, place_of(anywhere, f"key-{number}"))) for number in (4, 0))
    result = run(anywhere, "replay", "--at", four, "--at", zero, "--at", "0:99999", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["replayed"], document["skipped"], document["failed"]) == (1, 1, 1)
    assert "0:99999: there is no such letter" in result.stderr
    assert sent_back(anywhere)[b"key-4"] == 1
    assert counts(replay(anywhere, Choice(error="BadPicture"))) == (0, 0, 0)
    assert counts(replay(anywhere, ALL)) == (2, 4, 0)


def test_a_dry_run_sends_nothing(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, number) for number in range(4)])
    result = run(anywhere, "replay", "--all", "--dry-run", "--json")
    assert json.loads(result.stdout)["replayed"] == 4
    assert images(anywhere) == []
    assert counts(replay(anywhere, ALL)) == (4, 0, 0)


def test_letters_go_back_to_where_each_came_from(anywhere: KafkaSettings) -> None:
    labels = Topics.of(anywhere.topic_prefix).labels
    send(anywhere, [letter(anywhere, 1), letter(anywhere, 2, topic=labels), letter(anywhere, 3, topic="gone.images")])
    result = replay(anywhere, ALL)
    assert counts(result) == (2, 0, 1)
    assert "no topic gone.images" in result.problems[0]
    assert [record.key for record in browse.read(anywhere, labels)] == [b"key-2"]
    assert sent_back(anywhere) == {b"key-1": 1}


def test_a_tombstone_goes_back_as_one(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, 1, "NullValue", value=None)])
    assert counts(replay(anywhere, ALL)) == (1, 0, 0)
    assert [record.value for record in images(anywhere)] == [None]


def test_a_digest_is_exchanged_for_its_original(anywhere: KafkaSettings) -> None:
    topic = Topics.of(anywhere.topic_prefix).images
    value = bytes(range(256)) * 3700
    sender = Sender(anywhere)
    sender.send(topic, b"big", value, [*HEADERS, ("cifarctl.replayed-from", b"9:9")])
    sender.close(10)
    (original,) = images(anywhere)
    send(anywhere, [DeadLetter(original, "decode", "TooLarge", "too large")])
    (row,) = json.loads(run(anywhere, "list", "--json").stdout)
    assert row["digested"]
    assert counts(replay(anywhere, ALL)) == (1, 0, 0)
    _, again = sorted(images(anywhere), key=lambda record: record.offset)
    assert (again.key, again.value) == (b"big", value)
    assert list(again.headers) == [*HEADERS, ("cifarctl.replayed-from", b"%d:%d" % (row["partition"], row["offset"]))]


def test_a_digest_whose_original_is_another_one_is_not_sent(anywhere: KafkaSettings) -> None:
    sender = Sender(anywhere)
    sender.send(Topics.of(anywhere.topic_prefix).images, b"other", b"another value")
    sender.close(10)
    (other,) = images(anywhere)
    big = letter(anywhere, 0, value=b"x" * 950_000, partition=other.partition, offset=other.offset)
    nowhere = letter(anywhere, 1, value=b"x" * 950_000, partition=77)
    send(anywhere, [big, nowhere])
    result = replay(anywhere, ALL)
    assert counts(result) == (0, 0, 2)
    assert all("digest" in problem for problem in result.problems)
    assert sent_back(anywhere) == {b"other": 1}


def test_what_fails_again_can_go_back_again(anywhere: KafkaSettings) -> None:
    send(anywhere, [letter(anywhere, 7)])
    replay(anywhere, ALL)
    (record,) = images(anywhere)
    send(anywhere, [DeadLetter(record, "decode", "WrongLength", "still wrong")])
    assert counts(replay(anywhere, ALL)) == (1, 1, 0)
    marks = [dict(each.headers)["cifarctl.replayed-from"] for each in images(anywhere)]
    assert len(set(marks)) == 2
    assert all(len(each.headers) == len(HEADERS) + 1 for each in images(anywhere))


def test_every_class_of_error_is_known() -> None:
    package = Path(letters.__file__).parent.parent
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    written = re.findall(r'(?:Refused\(|DeadLetter\(\w+, "?\w+"?,)\s*"(\w+)"', text)
    assert set(written) == letters.CLASSES


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay"], "--all"),
        (["replay", "--all", "--class", "NotJson"], "--all"),
        (["replay", "--at", "seven"], "PARTITION:OFFSET"),
        (["replay", "--at", "1:-2"], "PARTITION:OFFSET"),
        (["list", "--since", "yesterday"], "--since yesterday"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], named: str) -> None:
    result = cifarctl("dead-letters", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr


@pytest.mark.broker
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


@pytest.mark.broker
def test_told_to_stop_it_ends_between_two_letters(kafka: KafkaSettings) -> None:
    topics = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images, topics.dead_letters])
    send(kafka, [letter(kafka, number) for number in range(3)])
    assert counts(replay(kafka, ALL, stop=AfterFirst(lambda: None, True))) == (1, 0, 0)
    assert counts(replay(kafka, ALL)) == (2, 1, 0)
    assert sum(sent_back(kafka).values()) == 3


@pytest.mark.broker
def test_a_broker_that_goes_away_is_an_error_with_counts() -> None:
    with EmbeddedBroker() as own:
        settings = KafkaSettings(bootstrap_servers=own.bootstrap_servers, timeout_s=1)
        topics = Topics.of(settings.topic_prefix)
        clients.ensure_topics(settings, [topics.images, topics.dead_letters])
        send(settings, [letter(settings, number) for number in range(3)])
        with pytest.raises(BrokerError, match=r"1 of 3 letters were sent back.*kafka\.bootstrap_servers"):
            replay(settings, ALL, stop=AfterFirst(own.stop, False))


@pytest.mark.apache
def test_two_at_once_send_nothing_twice(apache_kafka_settings: KafkaSettings) -> None:
    """Whoever comes second fences the first, whose batch comes to nothing."""
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    send(settings, [letter(settings, 1)])
    with Returns(settings, topics.dead_letters) as first:
        assert counts(replay(settings, ALL)) == (1, 0, 0)
        item = Return(topics.images, b"key-1", b"value 1", [], *place_of(settings, "key-1"))
        with pytest.raises(BrokerError):
            first.send([item])
    assert sent_back(settings) == {b"key-1": 1}


def limit_messages(settings: KafkaSettings, topic: str, size: int) -> None:
    """Set the largest message of a topic, in bytes."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    limit = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource("topic", topic, incremental_configs=[limit])]
    ).values():
        future.result()


@pytest.mark.apache
def test_twenty_megabytes_go_back(apache_kafka_settings: KafkaSettings) -> None:
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    limit_messages(settings, topics.images, 25_000_000)
    value = bytes(range(250)) * 80_000
    sender = Sender(settings, options={"message.max.bytes": 25_000_000})
    sender.send(topics.images, b"huge", value)
    sender.close(30)
    bad, (found,) = codecs.decode(images(settings), classes=10, json_mean=HALF, json_std=HALF)
    assert (bad.ids, found.error) == ([], "TooLarge")
    send(settings, [found])
    assert counts(replay(settings, ALL)) == (1, 0, 0)
    assert [record.value == value for record in images(settings)] == [True, True]


@pytest.mark.apache
def test_what_a_topic_is_too_small_for_is_told_and_hinders_no_other(
    apache_kafka_settings: KafkaSettings,
) -> None:
    settings = apache_kafka_settings
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.dead_letters])
    sizes = {1: 10, 2: 50_000, 3: 20}
    send(settings, [letter(settings, number, key=b"same", value=b"x" * size) for number, size in sizes.items()])
    limit_messages(settings, topics.images, 2000)
    result = replay(settings, ALL)
    assert counts(result) == (2, 0, 1)
    assert "takes no message of its size" in result.problems[0]
    assert [len(record.value or b"") for record in images(settings)] == [10, 20]
