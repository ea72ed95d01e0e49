"""Nothing lost, nothing doubled, whatever dies: `serve` on a real Apache Kafka, checked by `verify-stream`."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from typing import Any

import pytest
from apache_kafka import ApacheKafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from fixtures_kafka import own_settings
from processes import Flow, Process, Site, until

from cifarctl import events
from cifarctl.flows.verify import verify
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients
from cifarctl.stream.sender import Sender

PARTITIONS = 6
#: Seconds that a broker is away.
OUTAGE_S = float(os.environ.get("KAFKA_OUTAGE_S", "20"))
IDLE_S = 1.0


@pytest.fixture
def kafka(apache: ApacheKafka) -> KafkaSettings:
    """Six partitions of this test's own on the shared node."""
    return own_settings(apache, partitions=PARTITIONS)


def move_to(site: Site, kafka: ApacheKafka, **options: Any) -> None:
    """To brokers that a test may kill, with these settings of the connection."""
    options |= {"bootstrap_servers": kafka.bootstrap_servers}
    site.options |= {f"kafka.{name}": value for name, value in options.items()}
    site.kafka = site.kafka.model_copy(update=options)


@pytest.fixture
def stock(apache_stock: ApacheKafka, site: Site) -> Site:
    """The same on a node that the test may kill, with Kafka's own defaults."""
    move_to(site, apache_stock)
    return site


def fill(site: Site, count: int, *, bad_every: int = 0) -> None:
    """Images at full speed; every `bad_every`-th message is none."""
    sender = Sender(site.kafka)
    image = bytes(3072)
    for number in range(count):
        bad = bad_every and number % bad_every == 0
        sender.send(site.topics.images, f"{number}".encode(), b"bad" if bad else image, [("label", b"3")])
    sender.close(60)


def done(site: Site) -> int:
    """Inputs that the group has done with; a coordinator that moves is waited for."""
    patient = site.kafka.model_copy(update={"timeout_s": 60.0})
    return sum(browse.committed(patient, site.topics.images, site.kafka.group_id).values())


def check(site: Site, count: int) -> events.VerifyResult:
    *_, result = verify(site.kafka)
    assert isinstance(result, events.VerifyResult)
    assert result.exact, result
    assert (result.inputs, result.predictions + result.dead_letters) == (count, count)
    return result


def prepare(site: Site) -> None:
    names = site.topics
    clients.ensure_topics(site.kafka, [names.images, names.predictions, names.dead_letters])


def check_ids(site: Site) -> None:
    """Without the proof of our own: each id was answered as often as it was asked."""
    asked = Counter(dict(record.headers)["id"] for record in browse.read(site.kafka, site.topics.images))
    answers = browse.read(site.kafka, site.topics.predictions)
    assert asked == Counter(json.loads(record.value or b"")["id"].encode() for record in answers)


PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


@pytest.mark.long
@PROTOCOLS
def test_ten_kills_over_fifty_thousand_messages(site: Site, protocol: str) -> None:
    count, kills, chance = 50_000, 10, random.Random(4)
    site.options |= {"kafka.group_protocol": protocol}
    prepare(site)
    fill(site, count, bad_every=97)
    marks = sorted(chance.sample(range(1000, count - 5000), kills))
    serves = [site.start("serve", "--quiet") for _ in range(3)]
    for process in serves:
        process.await_ready()
    for mark in marks:
        until(lambda mark=mark: done(site) >= mark)  # type: ignore[misc]
        victim = chance.choice([index for index, process in enumerate(serves) if not process.ended])
        serves[victim].kill()
        serves[victim] = site.start("serve", "--quiet")
    until(lambda: done(site) >= count)
    for process in serves:
        process.await_ready()
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in serves] == [0, 0, 0]
    check(site, count)


@PROTOCOLS
def test_a_process_that_wakes_up_after_its_session_is_fenced(site: Site, protocol: str) -> None:
    """Suspended within a transaction, its partitions taken over and finished by another one meanwhile."""
    prepare(site)
    options: dict[str, Any] = {"kafka__group_protocol": protocol, "kafka__session_timeout_ms": 3000}
    sleeper = site.start("serve", "--no-dashboard", "--json", kafka__commit_interval_ms=2000, **options)
    sleeper.await_line("(rebalance 1)")
    count = 20_000
    fill(site, count)
    sleeper.until(lambda: done(site) > 0)
    sleeper.signal(signal.SIGSTOP)
    answered = done(site)
    assert answered < count
    other = site.start("serve", "--no-dashboard", "--json", **options)
    other.await_ready()
    other.until(lambda: done(site) >= count)
    sleeper.signal(signal.SIGCONT)
    sleeper.await_line("partitions none")  # it has learned that they are gone
    fill(site, 1000)
    count += 1000
    until(lambda: done(site) >= count)
    for process in (sleeper, other):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.err
    check(site, count)
    told = [process.document["predicted"] for process in (sleeper, other)]
    assert sum(told) == count, "what was undone is not told as predicted"


def test_a_broker_of_kafkas_own_defaults_is_read_by_the_classic_protocol(
    apache_stock: ApacheKafka,
    apache: ApacheKafka,
) -> None:
    """It would notice a dead member of the other one after 45 s only; `auto` asks the broker."""
    assert clients.group_options(own_settings(apache_stock))["session.timeout.ms"] == 6000
    assert clients.group_options(own_settings(apache)) == {"group.protocol": "consumer"}


@PROTOCOLS
def test_a_broker_that_is_killed_and_comes_back(
    stock: Site,
    apache_stock: ApacheKafka,
    protocol: str,
) -> None:
    """On the client's side sessions are over by then, and partitions come back that a commit was holding."""
    stock.options |= {"kafka.group_protocol": protocol}
    prepare(stock)
    serve = stock.start("serve", "--no-dashboard", "--json")
    serve.await_ready()
    producing = stock.start("produce", "--rate", "200", "--no-dashboard", "--json")
    serve.until(lambda: done(stock) >= 200)
    before = done(stock)
    apache_stock.kill()
    serve.await_line("does not answer")
    apache_stock.start_node()
    serve.until(lambda: done(stock) >= before + 400)
    producing.signal(signal.SIGTERM)
    assert producing.wait() == 0, producing.err
    sent = producing.document
    assert sent["failed"] == 0
    serve.until(lambda: done(stock) >= sent["sent"])
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0, serve.err
    check(stock, sent["sent"])
    check_ids(stock)


@pytest.mark.long
def test_a_long_outage(stock: Site, apache_stock: ApacheKafka) -> None:
    """Longer than sessions, transactions and patience: all three processes say so, wait and go on by themselves."""
    prepare(stock)
    serve = stock.start("serve", "--online", "--no-dashboard", "--json", online__min_examples=1_000_000)
    serve.await_line("learner started")
    producing = stock.start("produce", "--rate", "50", "--no-dashboard", "--json")
    serve.until(lambda: done(stock) >= 100)
    before = done(stock)
    apache_stock.kill()
    ended = time.monotonic() + OUTAGE_S
    serve.await_line("does not answer")
    producing.await_line("does not acknowledge")
    until(lambda: time.monotonic() >= ended, patience_s=OUTAGE_S + 60)
    assert not serve.ended
    assert not producing.ended
    apache_stock.start_node()
    serve.until(lambda: done(stock) >= before + 50 * OUTAGE_S)
    producing.signal(signal.SIGTERM)
    assert producing.wait() == 0, producing.err
    assert producing.document["failed"] == 0
    serve.until(lambda: done(stock) >= producing.document["sent"])
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0, serve.err
    assert "learner down" not in serve.err
    check(stock, producing.document["sent"])


@pytest.mark.long
@PROTOCOLS
def test_a_node_of_three_dies(site: Site, apache_cluster: ApacheKafka, protocol: str) -> None:
    """Leaders and coordinators move; the stream goes on without the node, and with it again."""
    move_to(site, apache_cluster, replication=3, group_protocol=protocol)
    prepare(site)
    serving = site.serve()
    producing = site.keep_producing(rate=300)
    serving.until(lambda: done(site) >= 300)
    for node in (0, 1):
        before = done(site)
        apache_cluster.kill(node)
        serving.until(lambda before=before: done(site) >= before + 600)  # type: ignore[misc]
        apache_cluster.start_node(node)
    sent = producing.finish().sent
    # While leaders move, the client of `produce` may rarely send something twice (librdkafka, issue 4953).
    images = list(browse.read(site.kafka, site.topics.images))
    assert len({record.key for record in images}) == sent <= len(images)
    serving.until(lambda: done(site) >= len(images))
    serving.finish()
    check(site, len(images))


def test_a_partition_that_is_added_is_served_too(site: Site) -> None:
    prepare(site)
    serving = site.serve()
    serving.until(lambda: serving.of(events.Assigned))
    fill(site, 1000)
    serving.until(lambda: done(site) >= 1000)
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap_servers})
    for future in admin.create_partitions([NewPartitions(site.topics.images, PARTITIONS + 2)]).values():
        future.result()
    serving.until(lambda: len(serving.of(events.Assigned)[-1].partitions) == PARTITIONS + 2)
    fill(site, 2000)
    serving.until(lambda: done(site) >= 3000)
    assert set(browse.committed(site.kafka, site.topics.images, site.kafka.group_id)) == set(range(PARTITIONS + 2))
    serving.finish()
    check(site, 3000)


@PROTOCOLS
def test_a_storm_of_rebalances(site: Site, protocol: str) -> None:
    """Replicas come and go while the stream runs; each change moves partitions in the middle of transactions."""
    prepare(site)
    chance = random.Random(1)
    options = {"kafka__group_protocol": protocol, "serve__batch_size": 16}
    flows: list[Flow[events.ServeEvent]] = [site.serve(**options)]
    producing = site.keep_producing(rate=1000)
    for _ in range(10):
        flows.append(site.serve(**options))
        flows[-1].until(lambda: flows[-1].of(events.Assigned))
        if len(flows) > 2:
            flows.pop(chance.randrange(len(flows) - 1)).finish()
    count = producing.finish().sent
    until(lambda: done(site) >= count)
    for flow in flows:
        flow.finish()
    assert check(site, count).dead_letters == 0


def test_two_replicas_share_the_work(site: Site) -> None:
    prepare(site)
    serves = [site.start("serve", "--no-dashboard", "--json") for _ in range(2)]
    for process in serves:
        process.await_ready()
    for process in serves:
        process.until(lambda process=process: shares(process)[-1:] == [3])  # type: ignore[misc]
    fill(site, 6000)
    until(lambda: done(site) >= 6000)
    for process in serves:
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.err
    predicted = [process.document["predicted"] for process in serves]
    assert sum(predicted) == 6000
    assert min(predicted) > 1000
    check(site, 6000)


def shares(process: Process) -> list[int]:
    """How many partitions each rebalance has given to a replica: ``partitions 0–2, 5 (rebalance 3)`` are four."""
    found = []
    for text in re.findall(r"^partitions (.+) \(rebalance", process.err, re.M):
        ends = [part.split("–") for part in text.split(", ")] if text != "none" else []
        found.append(sum(int(end[-1]) - int(end[0]) + 1 for end in ends))
    return found


def test_verify_stream_finds_faults(site: Site) -> None:
    """A lost answer, a doubled one, one beyond the committed offset and one out of order, made by hand."""
    prepare(site)
    fill(site, 300, bad_every=10)
    assert site.serve(idle_timeout=IDLE_S).result().predicted == 270
    good = site.call("verify-stream", "--json")
    assert good.exit_code == 0, good.stderr
    document = json.loads(good.stdout)
    assert (document["exact"], document["inputs"], document["dead_letters"]) == (True, 300, 30)

    answers = site.topic("predictions").look()
    sender = Sender(site.kafka)
    sender.send(site.topics.predictions, answers[0].key, answers[0].value)
    body = json.loads(answers[1].value or b"")
    body["source"]["offset"] = 1_000_000
    sender.send(site.topics.predictions, answers[1].key, json.dumps(body).encode())
    sender.close(10)
    bad = site.call("verify-stream", "--json")
    assert bad.exit_code == 6, bad.stderr
    document = json.loads(bad.stdout)
    assert not document["exact"]
    assert (document["missing"], document["duplicated"], document["beyond"]) == (0, 1, 1)
    assert document["out_of_order"] >= 1

    other = site.call("verify-stream", "--json", "--group", "nobody")
    assert json.loads(other.stdout)["beyond"] >= 300
