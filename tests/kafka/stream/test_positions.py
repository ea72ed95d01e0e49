"""Where a group begins to read: `serve --from`, `--group`, and offsets that have aged out."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from fixtures_kafka import own_settings
from processes import Site, predictions, until

from cifarctl import events
from cifarctl.errors import BrokerError
from cifarctl.flows.verify import verify
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.positions import Start, move
from cifarctl.stream.sender import Sender

IDLE_S = 0.5


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    return own_settings(apache, partitions=2)


def fill(site: Site, count: int, start: int = 0) -> None:
    clients.ensure_topics(site.kafka, [site.topics.images])
    sender = Sender(site.kafka)
    for number in range(start, start + count):
        sender.send(site.topics.images, f"{number}".encode(), bytes(3072))
    sender.close(30)


def served(site: Site, start: str | None = None, **changes: object) -> int:
    """What a run of `serve` predicts, from that place on."""
    if start is not None:
        move(site.settings(**changes).kafka, site.topics.images, Start.parse(start))
    return int(site.serve(idle_timeout=IDLE_S, **changes).result().predicted)


def test_a_group_is_moved_and_another_one_begins_at_the_earliest(site: Site) -> None:
    fill(site, 40)
    assert served(site) == 40
    assert served(site) == 0
    assert served(site, "beginning") == 40
    assert served(site, kafka__group_id=f"{site.kafka.group_id}-other") == 40
    half = {number: offset // 2 for number, offset in offsets(site).items()}
    assert served(site, ",".join(f"{n}:{offset}" for n, offset in half.items())) == 40 - sum(half.values())
    moment = datetime.now().astimezone()
    fill(site, 10)
    assert served(site, "end") == 0
    assert served(site, moment.isoformat()) == 10


def test_the_command_moves_its_group_first(site: Site) -> None:
    fill(site, 20)
    assert served(site) == 20
    own = ("serve", "--json", "--idle-timeout", str(IDLE_S))
    again = site.run(*own, "--from", "beginning", "--group", site.kafka.group_id)
    assert again.document["predicted"] == 20
    assert f"group {site.kafka.group_id} starts at 0: 0, 1: 0" in again.err


def offsets(site: Site) -> dict[int, int]:
    return browse.committed(site.kafka, site.topics.images, site.kafka.group_id)


def test_a_place_that_is_not_there_is_named(site: Site) -> None:
    fill(site, 10)
    for place, told in (("0:1000", r"\[0\].*1000.*it has 0 to"), ("7:0", "no such partition"), ("99", "it has")):
        with pytest.raises(BrokerError, match=told):
            move(site.kafka, site.topics.images, Start.parse(place))


def test_a_group_that_is_being_read_cannot_be_moved(site: Site) -> None:
    fill(site, 10)
    serving = site.serve()
    serving.until(lambda: serving.of(events.Assigned))
    with pytest.raises(BrokerError, match=r"running serve.*--group"):
        move(site.kafka, site.topics.images, Start(word="beginning"))
    serving.finish()


def refused(site: Site) -> str:
    """Why `serve` does not go on."""
    with pytest.raises(BrokerError) as error:
        site.serve(idle_timeout=15.0).result()
    return str(error.value)


def remedy(line: str) -> str:
    """The place that an error says to begin at."""
    found = re.search(r"`cifarctl serve --group \S+ --from ([0-9:,]+)`", line)
    assert found is not None, line
    return found[1]


def audit(site: Site) -> events.VerifyResult:
    *_, result = verify(site.kafka)
    assert isinstance(result, events.VerifyResult)
    return result


def age(site: Site, places: dict[int, int]) -> None:
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    wanted = [TopicPartition(site.topics.images, number, offset) for number, offset in places.items()]
    for future in admin.delete_records(wanted).values():
        future.result()


def test_images_that_aged_out_unread_are_an_error(site: Site) -> None:
    """Not a silent skip; what the message says to do answers what is left, and nothing of the other partition again."""
    fill(site, 40)
    assert served(site) == 40
    fill(site, 40)
    before = offsets(site)
    oldest = before[0] + 3
    age(site, {0: oldest})
    assert audit(site).aged_out_unread == 3
    line = refused(site)
    assert f"offset {before[0]} of partition 0" in line
    assert "aged out unread" in line
    assert remedy(line) == f"0:{oldest}"
    assert served(site, remedy(line)) == 40 - 3
    assert audit(site).exact


def test_all_partitions_with_a_gap_are_named(site: Site) -> None:
    fill(site, 40)
    assert served(site) == 40
    fill(site, 40)
    oldest = {number: offset + 2 for number, offset in offsets(site).items()}
    age(site, oldest)
    assert remedy(refused(site)) == ",".join(f"{number}:{offset}" for number, offset in sorted(oldest.items()))


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_records_skipped_on_purpose_are_not_missing(site: Site, delivery: str) -> None:
    fill(site, 10)
    assert served(site, kafka__delivery=delivery) == 10
    fill(site, 7)
    assert served(site, "end", kafka__delivery=delivery) == 0
    fill(site, 5)
    assert served(site, kafka__delivery=delivery) == 5
    result = audit(site)
    assert (result.exact, result.inputs, result.skipped) == (True, 15, 7)
    assert served(site, ",".join(f"{n}:{offset}" for n, offset in oldest_skipped(site).items())) == 12
    assert audit(site).skipped == 0


def oldest_skipped(site: Site) -> dict[int, int]:
    places = browse.places(site.kafka, site.topics.images, site.kafka.group_id)
    return {number: place.mark.skipped[0][0] for number, place in places.items() if place.mark.skipped}


def remake(site: Site) -> None:
    """Delete the images topic and make it anew, as fast as the broker allows it."""
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    (deleted,) = admin.delete_topics([site.topics.images]).values()
    deleted.result()
    until(lambda: site.topics.images not in clients.partition_counts(site.kafka))
    clients.ensure_topics(site.kafka, [site.topics.images])


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_of_a_topic_made_anew_under_a_running_serve_nothing_is_lost(site: Site, protocol: str) -> None:
    """It ends with an error, or, where the group has noticed the deletion in between, reads the new topic whole."""
    fill(site, 40)
    serving = site.serve(kafka__group_protocol=protocol)
    serving.until(lambda: sum(offsets(site).values()) == 40)
    remake(site)
    fill(site, 100, start=1000)
    answers = site.topic("predictions")
    new = {str(number) for number in range(1000, 1100)}

    def missing() -> set[str]:
        return new - {prediction.id for prediction in predictions(answers)}

    try:
        serving.until(lambda: not missing())
        serving.finish()
    except BrokerError as error:
        assert "deleted and created again" in str(error)  # noqa: PT017
        if any(place.mark.topic_id for place in browse.places(site.kafka, *images_of(site)).values()):
            served(site, remedy(refused(site)))
        else:  # the broker has forgotten the offsets together with the topic
            served(site)
    assert not missing()
    assert audit(site).mismatched == 40, "the answers to the former topic are still there"


def images_of(site: Site) -> tuple[str, str]:
    return site.topics.images, site.kafka.group_id


def test_a_group_that_comes_back_to_a_topic_made_anew_is_told(site: Site) -> None:
    """The topic is longer than the committed offset: only its id tells; what the error says to do works."""
    fill(site, 40)
    assert served(site) == 40
    places = browse.places(site.kafka, *images_of(site))
    assert all(place.mark.topic_id for place in places.values())
    remake(site)
    fill(site, 100, start=1000)
    client = clients.consumer(site.kafka, site.kafka.group_id)
    kept = [TopicPartition(site.topics.images, n, at.offset, metadata=str(at.mark)) for n, at in places.items()]
    client.commit(offsets=kept, asynchronous=False)  # as a serve has committed that had not noticed yet
    client.close()
    assert audit(site).other_topic == 2
    line = refused(site)
    assert "the topic was deleted and created again" in line
    assert remedy(line) == "0:0,1:0"
    assert served(site, remedy(line)) == 100
    found = audit(site)
    assert (found.missing, found.other_topic, found.skipped, found.mismatched) == (0, 0, 0, 40)
