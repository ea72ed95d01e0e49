"""The Kafka of the tests itself: it keeps what it was given, and it ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_kafka
import pytest
from apache_kafka import ApacheKafka, KafkaUnavailable
from confluent_kafka import Consumer, Producer, TopicPartition
from fixtures_kafka import require_kafka


def exchange(kafka: ApacheKafka, word: bytes) -> list[bytes | None]:
    """Write a word in a transaction and read all that the topic holds, up to that word."""
    # A transaction's coordinator may be loading its log just after a start.
    quiet = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 200}
    producer = Producer({**quiet, "transactional.id": "exchange"})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce("words", word, partition=0)
    producer.commit_transaction(60)
    consumer = Consumer({**quiet, "group.id": "exchange"})
    consumer.assign([TopicPartition("words", 0, 0)])
    found: list[bytes | None] = []
    while word not in found:  # which is there a moment after the commit, or two
        message = consumer.poll(60)
        assert message is not None, "it is not there"
        if message.error() is None:
            found.append(message.value())
    consumer.close()
    return found


def test_a_node_keeps_its_messages_when_it_is_killed_and_started_again(apache_alone: ApacheKafka) -> None:
    assert exchange(apache_alone, b"before") == [b"before"]
    apache_alone.kill()
    assert not apache_alone.alive()
    apache_alone.start_node()
    assert exchange(apache_alone, b"after") == [b"before", b"after"]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    require_kafka()
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(apache_kafka.__file__).parent)!r})\n"
        "from apache_kafka import ApacheKafka\n"
        "with ApacheKafka() as kafka:\n"
        "    print(kafka.pid(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(starter)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    broker = int(process.stdout.readline())
    assert running(broker)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while running(broker):
        assert time.monotonic() < deadline, "the broker lives on"
        time.sleep(0.02)


def test_a_broker_that_does_not_start_is_told_with_the_end_of_its_log() -> None:
    require_kafka()
    with pytest.raises(KafkaUnavailable, match=r"no\.such\.class"):
        ApacheKafka(properties={"authorizer.class.name": "no.such.class"}).start()


def test_a_java_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r'needs Java 17 or newer, and .*java is openjdk version "11\.0\.2"'):
        apache_kafka.java()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
