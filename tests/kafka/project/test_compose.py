"""The cluster's commands as plain processes, with a broker, a replica and a learner less."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_kafka import HOST, ApacheKafka, Node
from confluent_kafka.admin import AdminClient
from containers import CLUSTER, brokers, environment, programs, properties
from fixtures_kafka import require_kafka
from helpers import Home
from processes import Process, until

from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients


class Cluster:
    """What cluster.yml starts, on this machine: the same settings, with loopback addresses and folders of the test."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.folder = folder
        self._options = [option.removeprefix("--set=").split("=", 1) for option in home.options]
        self._started: list[Process] = []
        self.brokers = ApacheKafka(len(brokers(CLUSTER)), configure=self._broker)
        self._addresses = dict(zip(brokers(CLUSTER), range(len(brokers(CLUSTER))), strict=True))

    def _broker(self, node: Node, nodes: Sequence[Node]) -> dict[str, str]:
        service = list(brokers(CLUSTER).values())[node.number]
        given = properties(environment(service))
        for name, other in zip(brokers(CLUSTER), nodes, strict=True):
            for inside, outside in ((9092, other.port), (9093, other.controller_port)):
                given = {key: value.replace(f"{name}:{inside}", f"{HOST}:{outside}") for key, value in given.items()}
        for inside, outside in ((9092, node.port), (9093, node.controller_port)):
            given["listeners"] = given["listeners"].replace(f"://:{inside}", f"://{HOST}:{outside}")
        return given | {"log.dirs": str(node.folder / "data")}

    def _environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The container's, and then images that need no download and a small model."""
        given = environment(service)
        for name, number in self._addresses.items():
            given = {key: value.replace(f"{name}:9092", self.brokers.address(number)) for key, value in given.items()}
        small = {f"CIFARCTL_{name.upper().replace('.', '__')}": value for name, value in self._options}
        small["CIFARCTL_REGISTRY__DIR"] = given["CIFARCTL_REGISTRY__DIR"]  # relative: the folder is the container's
        return given | small

    def settings(self) -> KafkaSettings:
        given = self._environment(programs()["serve"])
        prefix = "CIFARCTL_KAFKA__"
        kafka = {name.removeprefix(prefix).lower(): value for name, value in given.items() if name.startswith(prefix)}
        return KafkaSettings.model_validate(kafka)

    def start(self, name: str, *more: str) -> Process:
        """One container of a service; `more` in place of its command."""
        service = programs()[name]
        words = [*service.get("entrypoint", ["cifarctl"]), *(more or service["command"])]
        assert words[0] == "cifarctl"
        run = self.folder / f"run-{len(self._started)}"
        run.mkdir()
        arguments = tuple(word.replace("/run/cifarctl", str(run)) for word in words[1:])
        process = Process(arguments, self._environment(service), self.folder, f"{len(self._started)}-{name}")
        self._started.append(process)
        return process

    def produce(self, count: int) -> None:
        process = self.start("produce", "--rate", "0", "--count", str(count), "--json")
        assert process.wait() == 0, process.err
        assert process.document["sent"] == count

    def await_predictions(self, count: int) -> None:
        """Wait until all images so far are answered, each once."""
        topic = clients.Topics.of(self.settings().topic_prefix).predictions
        places: dict[bytes | None, set[tuple[int, int]]] = {}

        def all_there() -> bool:
            for record in browse.read(self.settings(), topic):
                places.setdefault(record.key, set()).add((record.partition, record.offset))
            return len(places) >= count

        until(all_there, lambda: f"{len(places)} of {count} predictions")
        assert len(places) == count
        assert {key: where for key, where in places.items() if len(where) > 1} == {}

    def kill_coordinator(self) -> None:
        """End the broker that keeps the group's offsets: the worst of the three."""
        admin = AdminClient({"bootstrap.servers": self.settings().bootstrap_servers, "log_level": 0})
        (group,) = admin.describe_consumer_groups([self.settings().group_id]).values()
        self.brokers.kill(group.result(30).coordinator.id - 1)

    def verify(self) -> None:
        """Every image has been answered exactly once and in order."""
        process = Process(("verify-stream", "--json"), self._environment(programs()["serve"]), self.folder, "verify")
        self._started.append(process)
        assert process.wait() == 0, process.out + process.err

    def clean_up(self) -> None:
        for process in self._started:
            process.clean_up()


@pytest.fixture
def cluster(home: Home, tmp_path: Path) -> Iterator[Cluster]:
    require_kafka()
    cluster = Cluster(home, tmp_path)
    with cluster.brokers:
        yield cluster
        cluster.clean_up()


@pytest.mark.long
def test_the_cluster_answers_with_a_broker_a_replica_and_a_learner_less(cluster: Cluster) -> None:
    replicas = [cluster.start("serve"), cluster.start("serve")]
    learners = [cluster.start("learner"), cluster.start("learner")]
    for replica in replicas:
        replica.await_ready()
    cluster.produce(120)
    cluster.await_predictions(120)

    until(lambda: any("learner started" in learner.out for learner in learners))
    active, standby = sorted(learners, key=lambda learner: "learner started" not in learner.out)
    standby.until(lambda: "this one stands by" in standby.out)

    replicas[0].kill()
    cluster.kill_coordinator()
    cluster.produce(80)
    cluster.await_predictions(200)

    assert "learner started" not in standby.out
    active.kill()
    standby.until(lambda: "learner started" in standby.out)

    for process in (replicas[1], standby):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.err
    cluster.verify()
