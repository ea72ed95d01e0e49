"""What `dead-letters` does on every broker: tests for either tier, which says where `anywhere` is."""

from __future__ import annotations

import json

from dead_letters import ALL, HEADERS, counts, images, letter, place_of, run, send, sent_back

from cifarctl.flows.dead_letters import Choice, replay
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.clients import Topics
from cifarctl.stream.records import DeadLetter
from cifarctl.stream.sender import Sender


def with_topics(settings: KafkaSettings) -> KafkaSettings:
    """The place that these settings lead to, with topics."""
    topics = Topics.of(settings.topic_prefix)
    clients.ensure_topics(settings, [topics.images, topics.labels, topics.dead_letters])
    return settings


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
    browse.await_decided(anywhere, labels)
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
