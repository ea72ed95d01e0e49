"""The containers: what the files promise."""

from __future__ import annotations

import re

from containers import CLUSTER, FILES, FOLDER, SINGLE, brokers, environment, programs, properties, services
from dotenv import dotenv_values
from helpers import ROOT

from cifarctl.settings import KafkaSettings, declared
from cifarctl.stream import embedded

# --- the files


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
