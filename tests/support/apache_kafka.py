"""A real Apache Kafka for tests and benchmarks: a KRaft cluster of this machine's Java, gone with this process.

    if (reason := unavailable()) is None:
        with ApacheKafka() as kafka:
            ...kafka.bootstrap_servers...

Maven resolves the jars once (`kafka/pom.xml`) into an ignored folder. Between this process and every broker stands a
guard, a small Python process that reads from a pipe: when this process ends, in whatever way, the operating system
closes the pipe and the guard kills the broker.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from filelock import FileLock

HOST = "127.0.0.1"
POM = Path(__file__).with_name("kafka") / "pom.xml"
JARS = POM.parent / "target" / "jars"
OLDEST_JAVA = 17
START_TIMEOUT_S = 120.0  # about 5 s where the cores have nothing else to do
STOP_TIMEOUT_S = 20.0
MAVEN_TIMEOUT_S = 600.0
#: Java for brokers that live for a minute: one is up after two thirds of the processor time.
BRIEFLY = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

#: Signals of the terminal are the parent's to handle; SIGTERM ends the broker in order.
GUARD = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
broker = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
signal.signal(signal.SIGTERM, lambda *_: broker.terminate())
print(broker.pid, flush=True)
def follow_parent():
    os.read(0, 1)
    broker.kill()
threading.Thread(target=follow_parent, daemon=True).start()
sys.exit(broker.wait() != 0)
"""

#: What makes tests quick where Kafka's defaults would only make them wait; `stock` clusters do without.
QUICK = {
    "num.partitions": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "broker.session.timeout.ms": "3000",  # a node that returns within it waits for its former self to be given up
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
}


class KafkaUnavailable(Exception):
    """Kafka cannot be had or does not start; the message says why."""


@functools.cache
def unavailable() -> str | None:
    """Why Kafka cannot be had on this machine, or None where it can; resolves the jars."""
    try:
        java()
        _jars()
    except KafkaUnavailable as error:
        return str(error)
    return None


class Security(Protocol):
    """Listeners beside the plaintext one; `kafka_security.Secure` is one."""

    @property
    def java_options(self) -> list[str]:
        """Options of every broker's Java machine."""

    @property
    def protocols(self) -> dict[str, str]:
        """Security protocol of each further listener."""

    @property
    def scram(self) -> list[str]:
        """SCRAM users, as StorageTool's --add-scram wants them."""

    @property
    def properties(self) -> dict[str, str]:
        """Further properties of every broker."""

    def listeners(self, node: int) -> dict[str, str]:
        """host:port of each further listener of a node."""

    def prepared(self, folder: Path) -> AbstractContextManager[object]:
        """Whatever the brokers look for while they run: files in `folder`, an issuer of tokens."""


@dataclass
class Node:
    """One broker: its place in the cluster, and where it listens and keeps its data."""

    number: int
    port: int
    controller_port: int
    folder: Path = Path()
    broker_id: int = 0
    guard: subprocess.Popen[bytes] | None = None
    pid: int = 0


class ApacheKafka:
    """A context manager around a cluster; every node is broker and controller at once."""

    def __init__(
        self,
        nodes: int = 1,
        *,
        stock: bool = False,
        secure: Security | None = None,
        properties: Mapping[str, str] | None = None,
        configure: Callable[[Node, Sequence[Node]], Mapping[str, str]] | None = None,
        heap_mb: int = 512,
        lasting: bool = False,
    ) -> None:
        """Nothing is started yet.

        Args:
            nodes: brokers, all on this machine.
            stock: Kafka's own defaults, but for what so few nodes cannot do without: ports, folders, replication.
            secure: further listeners with users, certificates and access control; see `kafka_security`.
            properties: of every broker, stronger than the ones of this module.
            configure: makes a node's properties, given that node and all, in place of this module.
            heap_mb: most memory of each Java machine's heap, in MiB.
            lasting: let Java compile in earnest, for measurements.
        """
        self.secure = secure
        self._defaults = {} if stock else QUICK
        self._properties = dict(properties or {})
        self._configure = configure or self._configuration
        self._heap_mb, self._lasting = heap_mb, lasting
        self._folder = Path()
        self._cleanup = ExitStack()
        ports = iter(free_ports(2 * nodes))
        self._nodes = [Node(number, next(ports), next(ports)) for number in range(nodes)]

    def __enter__(self) -> ApacheKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every node's plaintext listener."""
        return ",".join(f"{HOST}:{node.port}" for node in self._nodes)

    def address(self, node: int = 0) -> str:
        """host:port of one node's plaintext listener."""
        return f"{HOST}:{self._nodes[node].port}"

    def start(self) -> None:
        """Format a temporary folder, start all nodes and wait until they know each other.

        Raises:
            KafkaUnavailable: it cannot be had here, or does not come up; the message holds the end of its log.
        """
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="apache-kafka-")))
        try:
            if self.secure is not None:
                self._cleanup.enter_context(self.secure.prepared(self._folder))
            cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "A")
            formatting = []
            for node in self._nodes:
                node.folder = self._folder / f"node-{node.number}"
                node.folder.mkdir()
                configuration = self._configure(node, self._nodes)
                node.broker_id = int(configuration["node.id"])
                lines = [f"{name}={value}" for name, value in configuration.items()]
                (node.folder / "server.properties").write_text("\n".join(lines))
                formatting.append(self._format(node, cluster))
            for storage in formatting:
                _, complaint = storage.communicate(timeout=START_TIMEOUT_S)
                if storage.returncode:
                    raise KafkaUnavailable(f"kafka.tools.StorageTool: {complaint.decode('utf-8', 'replace')[-2000:]}")
            for node in self._nodes:
                self._launch(node)
            for node in self._nodes:
                self._await_answer(node, len(self._nodes))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all nodes and delete what they held. Harmless when nothing runs."""
        for node in self._nodes:  # nothing of it is needed any more
            self._end(node, signal.SIGKILL)
        self._cleanup.close()

    def kill(self, node: int = 0) -> None:
        """End a node as kill -9 does."""
        self._end(self._nodes[node], signal.SIGKILL)

    def stop_node(self, node: int = 0) -> None:
        """End a node in order."""
        self._end(self._nodes[node], signal.SIGTERM)

    def start_node(self, node: int = 0) -> None:
        """Start a node again, on its old port and data, and wait until it answers.

        Raises:
            KafkaUnavailable: it does not come up.
        """
        self._launch(self._nodes[node])
        self._await_answer(self._nodes[node], 1)

    def restart(self, node: int = 0) -> None:
        """End a node in order and start it again."""
        self.stop_node(node)
        self.start_node(node)

    def pause(self, node: int = 0) -> None:
        """Halt a node (SIGSTOP): its connections stay open and nothing answers."""
        os.kill(self._nodes[node].pid, signal.SIGSTOP)

    def resume(self, node: int = 0) -> None:
        """Let a halted node go on."""
        os.kill(self._nodes[node].pid, signal.SIGCONT)

    def slow_down(self, client_id: str, bytes_per_second: int) -> None:
        """Let the producers of this client.id send so much by a quota, all of them together."""
        command = [*_java_command(128), *BRIEFLY, "kafka.admin.ConfigCommand", "--alter"]
        command += ["--bootstrap-server", self.bootstrap_servers, "--entity-type", "clients"]
        command += ["--entity-name", client_id, "--add-config", f"producer_byte_rate={bytes_per_second}"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_TIMEOUT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def pid(self, node: int = 0) -> int:
        """Process id of a node's Java machine."""
        return self._nodes[node].pid

    def alive(self, node: int = 0) -> bool:
        """Whether a node runs."""
        guard = self._nodes[node].guard
        return guard is not None and guard.poll() is None

    def log(self, node: int = 0) -> str:
        """What a node has said: warnings and errors."""
        return (self._nodes[node].folder / "log.txt").read_text("utf-8", "replace")

    def _configuration(self, node: Node, nodes: Sequence[Node]) -> dict[str, str]:
        copies = min(len(nodes), 3)
        listeners = {"PLAIN": f"{HOST}:{node.port}", "CONTROLLER": f"{HOST}:{node.controller_port}"}
        protocols = {"PLAIN": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        further: dict[str, str] = {}
        if self.secure is not None:
            listeners |= self.secure.listeners(node.number)
            protocols |= self.secure.protocols
            further = self.secure.properties
        voters = [f"{other.number}@{HOST}:{other.controller_port}" for other in nodes]
        advertised = {name: address for name, address in listeners.items() if name != "CONTROLLER"}
        return {
            "node.id": str(node.number),
            "process.roles": "broker,controller",
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(f"{name}://{address}" for name, address in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{address}" for name, address in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "log.dirs": str(node.folder / "data"),
            "default.replication.factor": str(copies),
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(max(1, copies - 1)),
            "share.coordinator.state.topic.replication.factor": str(copies),
            "share.coordinator.state.topic.min.isr": str(max(1, copies - 1)),
            "min.insync.replicas": str(max(1, copies - 1)),
            **self._defaults,
            **further,
            **self._properties,
        }

    def _format(self, node: Node, cluster: str) -> subprocess.Popen[bytes]:
        users = self.secure.scram if self.secure is not None else []
        command = [*_java_command(64), *BRIEFLY, "kafka.tools.StorageTool", "format", "--cluster-id", cluster]
        command += ["--config", str(node.folder / "server.properties")]
        for user in users:
            command += ["--add-scram", user]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=node.folder
        )

    def _launch(self, node: Node) -> None:
        command = [*_java_command(self._heap_mb), *(() if self._lasting else BRIEFLY)]
        command += self.secure.java_options if self.secure else []
        command += ["kafka.Kafka", str(node.folder / "server.properties")]
        with (node.folder / "log.txt").open("ab") as log:
            node.guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", GUARD, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=node.folder,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
        assert node.guard.stdout is not None
        node.pid = int(node.guard.stdout.readline())

    def _await_answer(self, node: Node, brokers: int) -> None:
        """Wait until a node is in the cluster and knows of so many brokers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        quiet: dict[str, Any] = {"log_level": 0, "reconnect.backoff.max.ms": 200, "error_cb": lambda _: None}
        admin = AdminClient({"bootstrap.servers": self.address(node.number), **quiet})
        while True:
            with suppress(KafkaException):
                known = admin.list_topics(timeout=1).brokers
                if node.broker_id in known and len(known) >= brokers:
                    return
            if not self.alive(node.number) or time.monotonic() > deadline:
                state = "does not answer" if self.alive(node.number) else "has ended"
                raise KafkaUnavailable(
                    f"Kafka's node {node.number} {state}; its log ends\n{self.log(node.number)[-4000:]}"
                )
            time.sleep(0.05)

    def _end(self, node: Node, how: signal.Signals) -> None:
        guard, node.guard = node.guard, None
        if guard is None:
            return
        with suppress(ProcessLookupError):
            os.kill(node.pid, how)
        try:
            guard.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.kill(node.pid, signal.SIGKILL)
            guard.wait()
        for pipe in (guard.stdin, guard.stdout):
            assert pipe is not None
            pipe.close()


def _java_command(heap_mb: int) -> list[str]:
    return [
        java(),
        f"-Xmx{heap_mb}m",
        "-Djava.awt.headless=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        str(_jars() / "*"),
    ]


def java() -> str:
    """The java to run; JAVA_HOME's before the path's.

    Raises:
        KafkaUnavailable: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if program is None:
        raise KafkaUnavailable("Apache Kafka needs Java, and there is no java on the path")
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise KafkaUnavailable(f"Apache Kafka needs Java, and {program} does not run: {error}") from None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found.group(1)) < OLDEST_JAVA:
        raise KafkaUnavailable(
            f"Apache Kafka needs Java {OLDEST_JAVA} or newer, and {program} is {said.splitlines()[0]}"
        )
    return program


@functools.cache
def _jars() -> Path:
    """The folder of Kafka's jars, resolved by Maven where it is absent or belongs to another pom.xml.

    Raises:
        KafkaUnavailable: there is no Maven, or it finds no registry.
    """
    pom = hashlib.sha256(POM.read_bytes()).hexdigest()
    stamp = JARS / "pom.sha256"
    JARS.parent.mkdir(exist_ok=True)
    with FileLock(JARS.parent / "jars.lock"):
        if stamp.is_file() and stamp.read_text() == pom:
            return JARS
        maven = shutil.which("mvn")
        if maven is None:
            raise KafkaUnavailable("Apache Kafka's jars need Maven, and there is no mvn on the path")
        fresh = JARS.with_name("jars.fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        goal = "dependency:copy-dependencies"
        command = [maven, "-q", "-B", "-f", str(POM), goal, "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise KafkaUnavailable(f"Maven does not resolve Kafka's jars in {MAVEN_TIMEOUT_S:g} s") from None
        if done.returncode:
            complaints = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise KafkaUnavailable(
                f"Maven does not resolve Kafka's jars: {(complaints or ['it said nothing'])[0][:500]}"
            )
        (fresh / stamp.name).write_text(pom)
        shutil.rmtree(JARS, ignore_errors=True)
        fresh.rename(JARS)
        return JARS


def free_ports(count: int) -> list[int]:
    """Ports that are free at this moment; held together, so that they differ."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
