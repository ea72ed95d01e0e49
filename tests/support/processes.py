"""Running cifarctl for tests: as processes, as calls within this one, and as flows in threads of their own.

Whatever is awaited here is an event (a file, a line, a message) with a deadline that only a broken program meets.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pytest
import torch
from confluent_kafka import KafkaError, TopicPartition
from helpers import ROOT, cifarctl, once_a_run
from typer.testing import Result

from cifarctl import data, events, settings
from cifarctl.data import Images, Scenario
from cifarctl.flows.background import BackgroundFlow
from cifarctl.flows.produce import produce as produce_flow
from cifarctl.flows.serve import serve as serve_flow
from cifarctl.registry import Registry
from cifarctl.settings import KafkaSettings, Settings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics
from cifarctl.stream.predictions import Prediction, decode_prediction
from cifarctl.stream.records import Record, record_of

PATIENCE_S = 90.0
CLASSES = 10
EventT = TypeVar("EventT")
KindT = TypeVar("KindT")
StartedT = TypeVar("StartedT")

#: Small images and quick arithmetic for all commands.
SMALL: dict[str, Any] = {
    "data.source": "synthetic",
    "data.synthetic_images": 2000,
    "train.batch_size": 32,
    "train.precision": "float32",
    "train.threads": 1,
    "serve.backend": "eager",
    "serve.precision": "float32",
    "serve.threads": 1,
    "serve.alias_interval": 0.1,
}


def until(done: Callable[[], object], story: Callable[[], str] = lambda: "", *, patience_s: float = PATIENCE_S) -> None:
    """Wait for `done`; after the deadline fail and tell the `story` so far."""
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() >= deadline:
            pytest.fail(f"it did not happen; {story()}")
        time.sleep(0.02)


class Process:
    """A running ``cifarctl`` command, in a session of its own as if it had its own terminal."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], folder: Path, name: str) -> None:
        self._out, self._err, self._ready = (folder / f"{name}.{kind}" for kind in ("out", "err", "ready"))
        if arguments[0] == "serve":
            arguments = (*arguments, "--ready-file", str(self._ready))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "cifarctl", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | environment,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    def await_ready(self) -> None:
        """Wait for the ready file of `serve`."""
        self.until(lambda: self._ready.exists() and self._ready.read_text())
        assert self._ready.read_text() == f"{self.pid}\n"

    def await_line(self, text: str, times: int = 1) -> None:
        """Wait until stderr has shown `text` so many times."""
        self.until(lambda: self.err.count(text) >= times)

    def until(self, done: Callable[[], object]) -> None:
        """Wait for `done`, only as long as the command runs."""

        def story() -> str:
            return f"{self._popen.args}\nstdout:\n{self.out[-2000:]}\nstderr:\n{self.err[-4000:]}"

        def happened() -> bool:
            code = self._popen.poll()  # before the question: what it did last counts
            if done():
                return True
            if code is not None:
                pytest.fail(f"it ended before, with code {code}; {story()}")
            return False

        until(happened, story)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def press_ctrl_c(self) -> None:
        """What a terminal does: SIGINT to the command and to all its children."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the command as kill -9 does; its children are left to notice."""
        self._popen.kill()
        self._popen.wait(PATIENCE_S)

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def wait(self) -> int:
        """The exit code."""
        try:
            return self._popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end; stderr:\n{self.err[-4000:]}")

    def clean_up(self) -> None:
        if self._popen.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


class Flow(Generic[EventT]):
    """A flow in a thread, its events collected; its failure is raised where its end is awaited."""

    def __init__(self, stream: Callable[[threading.Event], Iterator[EventT]]) -> None:
        self.events: list[EventT] = []
        self._stop = threading.Event()
        self._flow = BackgroundFlow(stream(self._stop), self.events.append)
        self._flow.start()

    def of(self, kind: type[KindT]) -> list[KindT]:
        """The events of one kind so far."""
        return [event for event in list(self.events) if isinstance(event, kind)]

    def until(self, done: Callable[[], object]) -> None:
        """Wait for `done`, only as long as the flow runs."""

        def happened() -> bool:
            running = self._flow.running
            if done():
                return True
            if not running:
                self._flow.check()
                raise AssertionError(f"it ended before; last events: {self.events[-5:]}")
            return False

        until(happened, lambda: f"last events: {self.events[-5:]}")

    def result(self) -> Any:
        """Wait for the end; the last event."""
        self._flow.join(PATIENCE_S)
        assert not self._flow.running, "it did not end"
        self._flow.check()
        return self.events[-1]

    def finish(self) -> Any:
        """Ask it to end; the last event."""
        self._stop.set()
        return self.result()

    def clean_up(self) -> None:
        self._stop.set()
        self._flow.join(PATIENCE_S)


class Topic:
    """All messages of a topic from its beginning, read outside any group."""

    def __init__(self, kafka: KafkaSettings, name: str) -> None:
        clients.ensure_topics(kafka, [name])
        self.records: list[Record] = []
        places = _partitions(kafka, name)
        self._unread = {place.partition for place in places}  # those whose end has not been seen yet
        self._consumer = clients.consumer(kafka, f"{kafka.group_id}.looking-on")
        self._consumer.assign(places)

    def look(self) -> list[Record]:
        """All records in the order of their timestamps; what came after the first look may be a moment late."""
        self._read()
        until(lambda: not self._unread or self._read())
        self.records.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        return self.records

    def _read(self) -> None:
        for message in self._consumer.consume(10_000, 0.05):
            if message.error() is None:
                self.records.append(record_of(message))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                self._unread.discard(message.partition())

    def await_records(self, count: int) -> list[Record]:
        """Wait until there are `count` records, which must then be all."""
        until(lambda: len(self.look()) >= count, lambda: f"{len(self.records)} of {count} records")
        assert len(self.look()) == count
        return self.records

    def clean_up(self) -> None:
        self._consumer.close()


@dataclass
class Site:
    """A place of a test's own: folder, registry, topics, settings; what it has started ends with it."""

    folder: Path
    kafka: KafkaSettings
    options: dict[str, Any]
    _started: list[Any] = field(default_factory=list)

    @property
    def topics(self) -> Topics:
        return Topics.of(self.kafka.topic_prefix)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings().registry)

    def settings(self, **changes: Any) -> Settings:
        """The settings that commands here have; changes as ``serve__batch_size=5``."""
        return settings.load(self._effective(changes))

    def variables(self, **changes: Any) -> dict[str, str]:
        """The settings as variables of the environment."""
        given = self._effective(changes)
        return {f"CIFARCTL_{name.upper().replace('.', '__')}": str(value) for name, value in given.items()}

    def start(self, *arguments: str, **changes: Any) -> Process:
        """Start ``cifarctl``; it finds the settings in its environment."""
        environment = self.variables(**changes)
        return self._keep(Process(arguments, environment, self.folder, f"{len(self._started)}-{arguments[0]}"))

    def run(self, *arguments: str, code: int = 0, **changes: Any) -> Process:
        """Run ``cifarctl`` to its end, which must be `code`."""
        process = self.start(*arguments, **changes)
        assert process.wait() == code, process.err
        return process

    def call(self, *arguments: str, **changes: Any) -> Result:
        """Run ``cifarctl`` within this process, which saves the time of a start."""
        return cifarctl(*arguments, *(f"--set={name}={value}" for name, value in self._effective(changes).items()))

    def serve(self, *, online: bool = False, **changes: Any) -> Flow[events.ServeEvent]:
        """The flow behind ``cifarctl serve``; its own options are `max_messages` and `idle_timeout`."""
        own = {name: changes.pop(name) for name in ("max_messages", "idle_timeout") if name in changes}
        chosen = self.settings(**changes)

        def stream(stop: threading.Event) -> Iterator[events.ServeEvent]:
            return serve_flow(chosen, online=online, stop=stop, **own)

        return self._keep(Flow(stream))

    def produce(
        self, count: int | None, *, drift: str = "", stop: threading.Event | None = None, **changes: Any
    ) -> Iterator[events.ProduceEvent]:
        """The flow behind ``cifarctl produce``, at full speed unless told otherwise."""
        chosen = self.settings(**({"produce__rate": 0} | changes))
        images, scenario = self.stream_images(), Scenario.parse(drift)
        return produce_flow(
            images, CLASSES, chosen.kafka, chosen.produce, chosen.serve, count=count, drift=scenario, stop=stop
        )

    def keep_producing(self, rate: float, drift: str = "", **changes: Any) -> Flow[events.ProduceEvent]:
        """Images at `rate` a second until told to finish."""
        return self._keep(Flow(lambda stop: self.produce(None, drift=drift, stop=stop, produce__rate=rate, **changes)))

    def send(self, count: int, **options: Any) -> None:
        """Produce `count` images and see them acknowledged."""
        *_, result = self.produce(count, **options)
        assert isinstance(result, events.ProduceResult)
        assert (result.sent, result.failed) == (count, 0)

    def topic(self, name: str) -> Topic:
        """Look on at a topic; `name` is a field of `Topics`."""
        return self._keep(Topic(self.kafka, getattr(self.topics, name)))

    def stream_images(self) -> Images:
        """The images that `produce` sends."""
        chosen = self.settings().data
        dataset = data.load(chosen)
        return dataset.train.take(data.split_of(dataset, chosen).stream)

    def clean_up(self) -> None:
        for started in reversed(self._started):
            started.clean_up()

    def _effective(self, changes: dict[str, Any]) -> dict[str, Any]:
        return self.options | {name.replace("__", "."): value for name, value in changes.items()}

    def _keep(self, started: StartedT) -> StartedT:
        self._started.append(started)
        return started


@pytest.fixture
def site(tmp_path: Path, kafka: KafkaSettings, trained_site: Path) -> Iterator[Site]:
    """A site with a registry whose production version gets about 70 % of the synthetic images right."""
    shutil.copytree(trained_site, tmp_path / "registry")
    site = _site(tmp_path, kafka)
    threads = torch.get_num_threads()
    yield site
    site.clean_up()
    torch.set_num_threads(threads)  # serving sets it for itself


@pytest.fixture(scope="session")
def trained_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version, trained through the command line: one for all modules, so copy it."""

    def train(folder: Path) -> None:
        _site(folder, KafkaSettings()).run("train", "--epochs", "4", "--quiet")

    return once_a_run(tmp_path_factory, "trained-site", train) / "registry"


def predictions(topic: Topic) -> list[Prediction]:
    """What the predictions topic holds so far."""
    return [decode_prediction(record.value) for record in topic.look()]


def ids(topic: Topic) -> list[str]:
    """The ids of the images topic so far, as headers carry them."""
    return [(dict(record.headers)["id"] or b"").decode() for record in topic.look()]


def committed(site: Site) -> int:
    """Messages of the images topic that the group has done with."""
    client = clients.consumer(site.kafka, site.kafka.group_id)
    try:
        places = client.committed(_partitions(site.kafka, site.topics.images), timeout=PATIENCE_S)
        return sum(max(0, place.offset) for place in places)
    finally:
        client.close()


def children(pid: int) -> dict[int, str]:
    """Child processes and their command lines."""
    if sys.platform == "linux":  # where ps may not be installed
        return {child: command for child, parent, command in _linux_processes() if parent == pid}
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and int(row[1]) == pid}


def learner_of(pid: int) -> int:
    """The process id of the learner that ``serve --online`` has started."""
    (found,) = [child for child, command in children(pid).items() if "spawn_main" in command]
    return found


def tutorial() -> ModuleType:
    """The tutorial's scripts, from benchmarks/."""
    path = ROOT / "benchmarks" / "tutorial.py"
    spec = importlib.util.spec_from_file_location("tutorial", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kafka-python reads its schemas in a way that Python 3.11 deprecates
        spec.loader.exec_module(module)
    return module


def _site(folder: Path, kafka: KafkaSettings) -> Site:
    names = ("bootstrap_servers", "topic_prefix", "group_id", "session_timeout_ms", "commit_interval_ms")
    names += ("partitions", "replication", "group_protocol", "delivery")
    own = {f"kafka.{name}": getattr(kafka, name) for name in names}
    return Site(folder, kafka, SMALL | own | {"registry.dir": folder / "registry"})


def _partitions(kafka: KafkaSettings, topic: str) -> list[TopicPartition]:
    """All of them, from the beginning; a topic that the broker made of itself has other ones than ours."""
    return [TopicPartition(topic, number, 0) for number in range(clients.partition_counts(kafka)[topic])]


def _linux_processes() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
