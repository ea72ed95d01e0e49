"""Where a group begins to read: `serve --from`, `--group`, and offsets that have aged out."""

from __future__ import annotations

from datetime import datetime

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from fixtures_kafka import apache, own_settings  # noqa: F401  fixtures among them
from processes import Site, site, trained  # noqa: F401  fixtures among them

from cifarctl import events
from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.positions import Start, move
from cifarctl.stream.sender import Sender

IDLE_S = 0.5


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:  # noqa: F811
    return own_settings(apache, partitions=2)


def fill(site: Site, count: int) -> None:  # noqa: F811
    clients.ensure_topics(site.kafka, [site.topics.images])
    sender = Sender(site.kafka)
    for number in range(count):
        sender.send(site.topics.images, f"{number}".encode(), bytes(3072))
    sender.close(30)


def served(site: Site, start: str | None = None, **changes: object) -> int:  # noqa: F811
    """What a run of `serve` predicts, from that place on."""
    if start is not None:
        move(site.settings(**changes).kafka, site.topics.images, Start.parse(start))
    return int(site.serve(idle_timeout=IDLE_S, **changes).result().predicted)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", Start(word="beginning")),
        ("end", Start(word="end")),
        ("17", Start(offset=17)),
        ("0:5", Start(offsets={0: 5})),
        ("0:5,12:700", Start(offsets={0: 5, 12: 700})),
        ("2026-01-31T12:00:00+00:00", Start(time_ms=1_769_860_800_000)),
        ("2026-01-31", Start(time_ms=round(datetime(2026, 1, 31).timestamp() * 1000))),
    ],
)
def test_places_are_understood(text: str, start: Start) -> None:
    assert Start.parse(text) == start


@pytest.mark.parametrize("text", ["", "start", "-1", "0:", "0:1,", "yesterday", "1.5"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--from"):
        Start.parse(text)


@pytest.mark.apache
def test_a_group_is_moved_and_another_one_begins_at_the_earliest(site: Site) -> None:  # noqa: F811
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


@pytest.mark.apache
def test_the_command_moves_its_group_first(site: Site) -> None:  # noqa: F811
    fill(site, 20)
    assert served(site) == 20
    own = ("serve", "--json", "--idle-timeout", str(IDLE_S))
    again = site.run(*own, "--from", "beginning", "--group", site.kafka.group_id)
    assert again.document["predicted"] == 20
    assert f"group {site.kafka.group_id} begins at 0: 0, 1: 0" in again.err


def offsets(site: Site) -> dict[int, int]:  # noqa: F811
    return browse.committed(site.kafka, site.topics.images, site.kafka.group_id)


@pytest.mark.apache
def test_a_place_that_is_not_there_is_named(site: Site) -> None:  # noqa: F811
    fill(site, 10)
    for place, told in (("0:1000", r"\[0\].*1000.*it holds 0 to"), ("7:0", "no such partition"), ("99", "it holds")):
        with pytest.raises(BrokerError, match=told):
            move(site.kafka, site.topics.images, Start.parse(place))


@pytest.mark.apache
def test_a_group_that_is_being_read_cannot_be_moved(site: Site) -> None:  # noqa: F811
    fill(site, 10)
    serving = site.serve()
    serving.until(lambda: serving.of(events.Assigned))
    with pytest.raises(BrokerError, match=r"running serve.*--group"):
        move(site.kafka, site.topics.images, Start(word="beginning"))
    serving.finish()


@pytest.mark.apache
def test_images_that_aged_out_unread_are_an_error(site: Site) -> None:  # noqa: F811
    """Not a silent skip; what the message says to do works."""
    fill(site, 40)
    assert site.serve(max_messages=10, serve__batch_size=1).result().predicted == 10
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    gone = {number: offset + 3 for number, offset in offsets(site).items()}
    places = [TopicPartition(site.topics.images, number, offset) for number, offset in gone.items()]
    for future in admin.delete_records(places).values():
        future.result()
    failed = site.run("serve", "--json", code=5)
    line = failed.err.splitlines()[-1]
    assert "aged out" in line
    assert "--from beginning" in line
    left = 40 - sum(gone.values())
    assert served(site, "beginning") == left
