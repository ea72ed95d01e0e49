"""The containers: what the files promise, and the cluster's commands as plain processes under the same settings."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_kafka import HOST, ApacheKafka, Node
from confluent_kafka.admin import AdminClient
from dotenv import dotenv_values
from fixtures_kafka import require_kafka
from helpers import Home
from processes import Process, until
from ruamel.yaml import YAML

from cifarctl.settings import KafkaSettings, declared
from cifarctl.stream import browse, clients, embedded

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "compose"
SINGLE, CLUSTER = FOLDER / "kafka.yml", FOLDER / "cluster.yml"
FILES = (SINGLE, CLUSTER)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def docker_has_compose() -> bool:
    return shutil.which("docker") is not None and run("docker", "compose", "version").returncode == 0


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(file)["services"]
    return found


def brokers(file: Path) -> dict[str, Any]:
    return {name: service for name, service in services(file).items() if service["image"].startswith("apache/")}


def programs() -> dict[str, Any]:
    """The services of the cluster that run cifarctl."""
    return {name: service for name, service in services(CLUSTER).items() if service["image"] == "cifarctl"}


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a container: those of its file, and its own, which are stronger."""
    common = dotenv_values(FOLDER / service["env_file"]) if "env_file" in service else {}
    return {name: str(value) for name, value in (common | service.get("environment", {})).items()}


def properties(variables: Mapping[str, str]) -> dict[str, str]:
    """What the official image makes of its environment: KAFKA_A_B__C___D is a.b_c-d."""
    own = {name.removeprefix("KAFKA_"): value for name, value in variables.items() if name.startswith("KAFKA_")}
    return {
        re.sub("_+", lambda found: {1: ".", 2: "_", 3: "-"}[len(found.group())], name.lower()): value
        for name, value in own.items()
        if name != "HEAP_OPTS"
    }


# --- the files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_compose_file_follows_the_specification(file: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    checked = run(sys.executable, "-m", "check_jsonschema", *schema, str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not docker_has_compose(), reason="no docker client with the compose plugin")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_docker_accepts_the_compose_file(file: Path) -> None:
    checked = run("docker", "compose", "-f", str(file), "config", "-q")
    assert checked.returncode == 0, checked.stderr


def test_the_compose_broker_is_the_one_that_cifarctl_looks_for() -> None:
    kafka = services(SINGLE)["kafka"]
    address = KafkaSettings().bootstrap_servers
    port = address.partition(":")[2]
    assert kafka["ports"] == [f"{address}:{port}"]  # and so on this machine only
    assert kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"] == f"HOST://{address}"
    assert kafka["environment"]["KAFKA_NUM_PARTITIONS"] == KafkaSettings().partitions


def test_the_broker_image_is_pinned_and_one() -> None:
    images = {service["image"] for file in FILES for service in brokers(file).values()}
    assert len(images) == 1
    assert re.fullmatch(r"apache/kafka:\d+\.\d+\.\d+", images.pop())


def test_the_tests_run_the_kafka_of_the_containers() -> None:
    pom = (ROOT / "tests" / "support" / "kafka" / "pom.xml").read_text()
    (version,) = re.findall(r"<kafka\.version>([\d.]+)</kafka\.version>", pom)
    assert {service["image"] for service in brokers(SINGLE).values()} == {f"apache/kafka:{version}"}


def test_the_remedy_of_broker_errors_names_the_compose_file() -> None:
    assert SINGLE.relative_to(ROOT).as_posix() in embedded.COMPOSE.split()


def test_a_dead_replica_is_noticed_by_the_broker_as_soon_as_by_the_classic_protocol() -> None:
    for file in FILES:
        for service in brokers(file).values():
            given = properties(environment(service))
            assert int(given["group.consumer.session.timeout.ms"]) == KafkaSettings().session_timeout_ms
            assert int(given["group.consumer.min.session.timeout.ms"]) <= KafkaSettings().session_timeout_ms
            heartbeat = int(given["group.consumer.heartbeat.interval.ms"])
            assert heartbeat * 3 <= KafkaSettings().session_timeout_ms
            assert int(given["group.consumer.min.heartbeat.interval.ms"]) <= heartbeat


def test_the_cluster_survives_any_one_broker() -> None:
    assert len(brokers(CLUSTER)) == 3
    for service in brokers(CLUSTER).values():
        given = properties(environment(service))
        for name in ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            assert given[f"{name}.replication.factor"] == "3"
        for name in ("min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"):
            assert given[name] == "2"
    for service in programs().values():
        assert environment(service)["CIFARCTL_KAFKA__REPLICATION"] == "3"


def test_programs_are_locked_in_and_share_the_registry() -> None:
    assert {"serve", "learner", "train", "produce"} == programs().keys()
    for service in programs().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "registry:/var/lib/cifarctl/registry" in service["volumes"]
        assert "ports" not in service
    assert services(CLUSTER)["serve"]["deploy"]["replicas"] >= 2
    assert services(CLUSTER)["learner"]["deploy"]["replicas"] == 2
    assert services(CLUSTER)["learner"]["restart"] == "unless-stopped"


def test_the_environment_file_knows_the_settings() -> None:
    known = {setting.environment for setting in declared()}
    given = dotenv_values(FOLDER / "cifarctl.env")
    assert given.keys() <= known
    assert not any(re.search("PASSWORD|SECRET", name) for name in given)


# --- the image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, its continued lines joined, comments left out."""
    text = "\n".join(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    found = instructions()
    bases = [value for name, value in found if name == "FROM"]
    assert all(re.match(r"python:3\.\d+\.\d+-slim-\w+( AS \w+)?$", base) for base in bases)
    assert len({base.split()[0] for base in bases}) == 1
    last = found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]
    users = [value for name, value in last if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])  # numbers, so that runtimes can see that it is not root
    names = [name for name, _ in last]
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(names)
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not any(name == "RUN" for name in names[names.index("USER") :])
    for name, value in found:
        assert name != "ADD"
        if name in {"ENTRYPOINT", "CMD"}:
            assert value.startswith("[")  # a shell would keep SIGTERM to itself
        if "pip install" in value:
            assert "--no-cache-dir" in value


def test_the_image_writes_only_where_the_cluster_lets_it() -> None:
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(value for name, value in instructions() if name == "ENV")))
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert variables[name].startswith("/run/cifarctl/")
    user = next(value for name, value in instructions() if name == "USER")
    for service in programs().values():
        (place,) = [entry for entry in service["tmpfs"] if entry.startswith("/run/cifarctl")]
        assert "uid={},gid={}".format(*user.split(":")) in place


def test_the_image_gets_what_the_package_is_built_from() -> None:
    wanted = {"pyproject.toml", "README.md", "LICENSE", "cifarctl"}
    ignored, *kept = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert ignored == "*"
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == wanted
    copied = {word for name, value in instructions() if name == "COPY" for word in value.split()[:-1]}
    assert wanted <= copied
    assert all((ROOT / name).exists() for name in wanted)


def test_the_health_check_looks_at_the_file_that_serve_writes() -> None:
    (check,) = [value for name, value in instructions() if name == "HEALTHCHECK"]
    command = services(CLUSTER)["serve"]["command"]
    assert f'"{command[command.index("--ready-file") + 1]}"' in check
    for name, service in programs().items():
        assert service.get("healthcheck", {}).get("disable", False) == (name != "serve")


# --- the cluster, as plain processes


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


@pytest.mark.apache
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
