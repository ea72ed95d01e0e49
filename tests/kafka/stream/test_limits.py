"""Topics that take only small messages: whatever their limit, all is answered, sent and sent back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic
from fixtures_kafka import own_settings
from processes import Site, committed, predictions

from cifarctl.errors import BrokerError
from cifarctl.flows.dead_letters import Choice, replay
from cifarctl.settings import KafkaSettings
from cifarctl.stream import letters
from cifarctl.stream.limits import Limits, TopicLimits
from cifarctl.stream.records import DeadLetter, Record
from cifarctl.stream.sender import Sender

IMAGE = bytes(3072)
BAD = b"?" * 99_800


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    """One partition of this test's own on the shared node: batches are as large as they get."""
    return own_settings(apache, partitions=1)


def limited(site: Site, **limits: int) -> None:
    """Create topics, those of `limits` with that max.message.bytes."""
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    topics = []
    for name, topic in vars(site.topics).items():
        config = {"max.message.bytes": str(limits[name])} if name in limits else {}
        topics.append(NewTopic(topic, 1, 1, config=config))
    for future in admin.create_topics(topics).values():
        future.result()


def limit(site: Site, topic: str, size: int) -> None:
    """Change a topic's max.message.bytes."""
    set_config(site, topic, "max.message.bytes", str(size))


def set_config(site: Site, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration."""
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource("topic", topic, incremental_configs=[change])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def fill(site: Site, messages: Mapping[str, bytes]) -> None:
    sender = Sender(site.kafka, options={"batch.num.messages": 1})
    for image_id, value in messages.items():
        sender.send(site.topics.images, image_id.encode(), value, [("label", b"3"), ("other", b"x" * 100)])
    sender.close(10)


def images(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"good-{number}": IMAGE for number in range(start, start + count)}


def forget_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without permission to read the configuration of topics."""
    monkeypatch.setattr("cifarctl.stream.limits._described", lambda *_: {})


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
@pytest.mark.parametrize("known", [True, False])
def test_a_bad_message_as_large_as_its_topic_takes_stops_nothing(
    site: Site,
    delivery: str,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both topics take 100,000 bytes; whether the broker tells so or not, what lies behind it is answered."""
    limited(site, images=100_000, dead_letters=100_000)
    if not known:
        forget_limits(monkeypatch)
    fill(site, images(3) | {"bad": BAD} | images(3, 3))
    result = site.serve(max_messages=7, kafka__delivery=delivery).result()
    assert (result.predicted, result.dead_lettered) == (6, 1)
    (record,) = site.topic("dead_letters").look()
    letter = letters.read_letter(record)
    assert letter is not None
    assert (letter.digested, letter.error) == (True, "NotJson")
    assert letters.is_digest_of(record.value, BAD)


@pytest.mark.parametrize("known", [True, False])
def test_answers_fit_where_their_batch_would_not(
    site: Site,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One odd id makes an answer that is too large by itself: a dead letter."""
    limited(site, predictions=10_000)
    if not known:
        forget_limits(monkeypatch)
    sender = Sender(site.kafka)
    for image_id in [*map(str, range(200)), "\x01" * 1000 + '"' * 1000]:
        sender.send(site.topics.images, image_id[:1024].encode(), IMAGE, [])
    sender.close(10)
    limit(site, site.topics.predictions, 4000)
    result = site.serve(max_messages=201).result()
    assert (result.predicted, result.dead_lettered) == (200, 1)
    assert {each.id for each in predictions(site.topic("predictions"))} == set(map(str, range(200)))
    (record,) = site.topic("dead_letters").look()
    assert dict(record.headers)["cifarctl.error.class"] == b"AnswerTooLarge"
    assert committed(site) == 201


def test_a_limit_that_is_lowered_meanwhile(site: Site) -> None:
    limited(site)
    serving = site.serve()
    fill(site, {"first": BAD})
    serving.until(lambda: committed(site) == 1)
    limit(site, site.topics.predictions, 10_000)
    limit(site, site.topics.dead_letters, 1100)
    fill(site, images(100) | {"second": BAD})
    serving.until(lambda: committed(site) == 102)
    assert serving.finish().predicted == 100
    assert [len(record.value or b"") < 1000 for record in site.topic("dead_letters").look()] == [False, True]


@pytest.mark.parametrize("known", [True, False])
def test_produce_sends_into_a_topic_of_small_messages(
    site: Site,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited(site, images=100_000, labels=1100)
    if not known:
        forget_limits(monkeypatch)
    *_, result = site.produce(120, produce__label_delay=0.01)
    assert (result.sent, result.failed, result.labels_sent, result.labels_failed) == (120, 0, 120, 0)  # type: ignore[union-attr]
    assert len({record.key for record in site.topic("images").await_records(120)}) == 120


def test_a_message_that_no_batch_is_small_enough_for_fails_alone(
    site: Site,
) -> None:
    limited(site, images=50_000)
    sender = Sender(site.kafka)
    for number in range(60):
        sender.send(site.topics.images, b"%d" % number, b"x" * (60_000 if number == 30 else 3000))
    with pytest.raises(BrokerError, match=rf"1 messages .* {site.topics.images} .*max.message.bytes"):
        sender.close(20)
    assert len(site.topic("images").await_records(59)) == 59


def test_a_topic_that_takes_no_answer_at_all_is_told_at_the_start(site: Site) -> None:
    limited(site, predictions=300)
    with pytest.raises(BrokerError, match=rf"{site.topics.predictions} accepts at most 300 .*max\.message\.bytes"):
        site.serve().result()


def test_letters_go_back_to_a_topic_of_small_messages(site: Site) -> None:
    limited(site, images=20_000, dead_letters=20_000)
    sender = Sender(site.kafka, limits=Limits(lambda: {site.topics.dead_letters: TopicLimits(20_000)}))
    for number in range(40):
        record = Record(site.topics.images, 0, number, 0, b"%d" % number, b"x" * 3000, ())
        sender.send_letter(site.topics.dead_letters, DeadLetter(record, "decode", "WrongLength", "too short"))
    sender.close(10)
    result = replay(site.kafka, Choice())
    assert (result.replayed, result.skipped, result.failed) == (40, 0, 0)
    assert [record.key for record in site.topic("images").look()] == [b"%d" % number for number in range(40)]


@pytest.mark.parametrize("known", [True, False])
def test_compacted_dead_letters_take_what_has_no_key_too(
    site: Site,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The letter and the receipt have keys of their own, and the message goes back as it came."""
    limited(site)
    set_config(site, site.topics.dead_letters, "cleanup.policy", "compact")
    if not known:
        forget_limits(monkeypatch)
    sender = Sender(site.kafka)
    sender.send(site.topics.images, b"good", IMAGE)
    for value in (b"?", b"??"):
        sender.send(site.topics.images, None, value, [("id", b"bad")])
    sender.close(10)
    result = site.serve(max_messages=3).result()
    assert (result.predicted, result.dead_lettered) == (1, 2)
    assert {record.key for record in site.topic("dead_letters").look()} == {
        b"%s:0:%d" % (site.topics.images.encode(), offset) for offset in (1, 2)
    }
    assert replay(site.kafka, Choice()).replayed == 2
    sent = [(record.key, record.value, record.headers[0]) for record in site.topic("images").look()[3:]]
    assert sent == [(None, b"?", ("id", b"bad")), (None, b"??", ("id", b"bad"))]
    assert replay(site.kafka, Choice()).skipped == 2
    assert all(record.value is not None for record in site.topic("dead_letters").look()), "null is a tombstone"
