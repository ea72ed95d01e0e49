"""A broker that dies again and again under load: nothing lost, nothing doubled, and progress soon after each return.

One Apache Kafka node with Kafka's own defaults (the sessions and delays of a production broker; three partitions) is
killed (SIGKILL) or stopped (SIGTERM) `--restarts` times at random moments and is away for 3 to 15 s each time, while
`cifarctl serve` answers what `cifarctl produce` and a bare client send; every tenth message of the client is none that
a model may see. Chance is seeded, so a run can be repeated. One round for each `--protocol`.

The proof does without the system's own: the ids that the images topic holds are counted and compared with the ids that
the topics of predictions and dead letters hold for readers of committed messages. Progress is what the group has
committed: two seconds' worth of messages more than before the end of the broker, within a minute of its return.

    python -m benchmarks.faults [--protocol classic|consumer|auto]... [--restarts 20] [--seed 1] [--rate 200]

Ends with 1 if anything is lost or doubled, or if progress takes longer. Needs Java and Maven; the data are synthetic.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from benchmarks.bed import Requirement, verdict
from benchmarks.process import CIFARCTL, Running, machine, run
from tests.support.apache_kafka import ApacheKafka, unavailable

PROTOCOLS = ("classic", "consumer")
PARTITIONS = 3
AWAY_S = (3.0, 15.0)
BETWEEN_S = (2.0, 8.0)  # from progress to the next end of the broker
PROGRESS_S = 60.0
PATIENCE_S = 180.0
BACKLOG_S = 900.0  # for what a busy machine has not come to by the end
BAD_EVERY = 10
CLIENT_RATE = 20.0  # messages a second of the bare client
MODEL = {"data.source": "synthetic", "data.synthetic_images": 2000, "train.batch_size": 32, "train.threads": 1}
SERVE = {"serve.backend": "eager", "serve.threads": 1}


@dataclass
class Round:
    """What came of one protocol: seconds until progress after each return, and what the ids say."""

    protocol: str
    kills: int = 0
    progress: list[float] = field(default_factory=list)
    produced: int = 0
    predicted: int = 0
    dead_lettered: int = 0
    lost: int = 0
    doubled: int = 0
    failure: str = ""

    @property
    def met(self) -> bool:
        """Whether all is as it must be."""
        return all(requirement.met for requirement in self.required)

    @property
    def required(self) -> list[Requirement]:
        """Nothing lost, nothing doubled, and soon progress, which a round that failed has not measured."""
        slowest = float("nan") if self.failure else max(self.progress, default=0.0)
        return [
            Requirement(f"{self.protocol}: messages lost", self.lost, most=0),
            Requirement(f"{self.protocol}: messages doubled", self.doubled, most=0),
            Requirement(f"{self.protocol}: slowest progress after a return, s", slowest, most=PROGRESS_S),
        ]

    def __str__(self) -> str:
        middle, most = statistics.median(self.progress or [0.0]), max(self.progress, default=0.0)
        return (
            f"{self.protocol:<10}{len(self.progress):>9}{self.kills:>7}{middle:>12.1f}{most:>8.1f}{self.produced:>10,}"
            f"{self.predicted:>11,}{self.dead_lettered:>9,}{self.lost:>6,}{self.doubled:>9,}"
            f"{'' if self.met else '   MISSED'} {self.failure}"
        ).rstrip()


class Client(threading.Thread):
    """Nothing but confluent-kafka, sending messages with ids, some of them bad, until told to stop."""

    def __init__(self, servers: str, topic: str) -> None:
        """Begins with `start`."""
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 2})
        self._topic, self._done = topic, threading.Event()

    def run(self) -> None:
        """Send."""
        run_id, number = uuid.uuid4().hex[:8], 0
        while not self._done.wait(1 / CLIENT_RATE):
            id = f"{run_id}-{number}".encode()
            value = b"bad" if number % BAD_EVERY == 0 else bytes(3072)
            self._producer.produce(self._topic, value, id, headers=[("id", id)])
            self._producer.poll(0)
            number += 1
        self._producer.flush(PATIENCE_S)

    def stop(self) -> None:
        """Send no more, and wait until all is acknowledged."""
        self._done.set()
        self.join()


def messages(servers: str, topic: str) -> Iterator[Message]:
    """All committed messages of a topic up to its end."""
    reader = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        numbers = set(reader.list_topics(topic, timeout=30).topics[topic].partitions)
        reader.assign([TopicPartition(topic, number, 0) for number in numbers])
        while numbers:
            for message in reader.consume(1000, 1.0):
                if (error := message.error()) is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    numbers.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)
    finally:
        reader.close()


def header_ids(servers: str, topic: str) -> Counter[str]:
    """How often the topic holds each id, by the header of that name."""
    found = (cast("list[tuple[str, bytes]]", message.headers()) for message in messages(servers, topic))
    return Counter(dict(headers)["id"].decode() for headers in found)


def committed(servers: str, group: str, topic: str) -> int | None:
    """How many messages the group has done with; None while nobody says."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": group, "log_level": 0, "error_cb": lambda _: None})
    try:
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        found = reader.committed(places, timeout=5)
        return None if any(place.error for place in found) else sum(max(0, place.offset) for place in found)
    except KafkaException:
        return None
    finally:
        reader.close()


def measure(protocol: str, restarts: int, seed: int, rate: float, folder: Path) -> Round:
    """One protocol, on a broker of its own, with the model that is in `folder`."""
    chance, result = random.Random(seed), Round(protocol)
    prefix = f"faults-{protocol}"
    images = f"{prefix}.images"
    with ApacheKafka(stock=True, lasting=True) as kafka:
        servers = kafka.bootstrap_servers
        kept = {"registry.dir": folder / "registry", "kafka.bootstrap_servers": servers, "kafka.partitions": PARTITIONS}
        kept |= {"kafka.topic_prefix": prefix, "kafka.group_id": prefix, "kafka.group_protocol": protocol}
        common = _assigned(MODEL | SERVE | kept)
        ready = folder / f"ready-{protocol}"

        known = 0

        def done() -> int:
            """What is known: nobody says while a commit is under way or the broker is away."""
            nonlocal known
            known = max(known, committed(servers, prefix, images) or 0)
            return known

        with (
            Running([*CIFARCTL, "serve", "--json", "--no-dashboard", "--ready-file", str(ready), *common]) as serving,
            Running([*CIFARCTL, "produce", "--json", "--rate", f"{rate:g}", *common]) as producing,
        ):
            serving.until(ready.exists, PATIENCE_S)
            client = Client(servers, images)
            client.start()
            try:
                serving.until(lambda: done() > rate, PATIENCE_S, 0.2)
                for number in range(restarts):
                    time.sleep(chance.uniform(*BETWEEN_S))
                    serving.until(lambda: committed(servers, prefix, images) is not None, PATIENCE_S)
                    away, kill, before = chance.uniform(*AWAY_S), chance.random() < 0.5, done()
                    (kafka.kill if kill else kafka.stop_node)()
                    result.kills += kill
                    time.sleep(away)
                    kafka.start_node()
                    back = time.monotonic()
                    enough = before + 2 * rate
                    serving.until(lambda enough=enough: done() >= enough, PATIENCE_S, 0.2)  # type: ignore[misc]
                    result.progress.append(time.monotonic() - back)
                    how = "killed" if kill else "stopped"
                    story = f"{number + 1:>3}  {how:<8} away {away:4.1f} s, progress after {result.progress[-1]:4.1f} s"
                    print(f"{protocol:<10}{story}", flush=True)
                client.stop()
                try:
                    if failed := producing.stop(PATIENCE_S)["failed"]:
                        result.failure = f"{failed} messages were not delivered"
                except SystemExit as error:  # what has arrived must be answered all the same
                    print(error, flush=True)
                    result.failure = "produce failed, see above"
                total = sum(header_ids(servers, images).values())
                serving.until(lambda: done() >= total, BACKLOG_S, 0.2)
                serving.stop(PATIENCE_S)
            except SystemExit as error:
                told, log = serving.told()[-4000:], kafka.log()[-4000:]
                print(f"{error}\n\nserve has said\n{told}\n\nthe broker has said\n{log}", flush=True)
                result.failure = "see above"
        with suppress(KafkaException):
            _compare(servers, prefix, result)
    return result


def _compare(servers: str, prefix: str, result: Round) -> None:
    """Count ids sent and ids answered."""
    asked = header_ids(servers, f"{prefix}.images")
    predicted = Counter(
        json.loads(message.value() or b"")["id"] for message in messages(servers, f"{prefix}.predictions")
    )
    letters = header_ids(servers, f"{prefix}.dead-letters")
    answered = predicted + letters
    result.produced, result.predicted, result.dead_lettered = asked.total(), predicted.total(), letters.total()
    result.lost, result.doubled = (asked - answered).total(), (answered - asked).total()


def _assigned(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def main() -> int:
    """Measure; 1 if something is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--protocol", action="append", choices=(*PROTOCOLS, "auto"), help="may be repeated; else both")
    parser.add_argument("--restarts", type=int, default=20, help="of the broker, for each protocol")
    parser.add_argument("--seed", type=int, default=1, help="of the moments, of their kind and of how long it is away")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second of produce")
    given = parser.parse_args()
    if (reason := unavailable()) is not None:
        raise SystemExit(reason)
    print(machine(), flush=True)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="cifarctl-bench-") as name:
        folder = Path(name)
        run([*CIFARCTL, "train", "--json", "--epochs", "1", *_assigned(MODEL | {"registry.dir": folder / "registry"})])
        for protocol in given.protocol or PROTOCOLS:
            rounds.append(measure(protocol, given.restarts, given.seed, given.rate, folder))
    print(f"\n{'protocol':<10}{'restarts':>9}{'kills':>7}{'progress s':>12}{'most':>8}", end="")
    print(f"{'produced':>10}{'predicted':>11}{'letters':>9}{'lost':>6}{'doubled':>9}")
    for each in rounds:
        print(each)
    return verdict("faults", [requirement for each in rounds for requirement in each.required])


if __name__ == "__main__":
    sys.exit(main())
