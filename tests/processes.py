"""Running cifarctl for tests: as processes, as a call within this one, and as flows in a thread of their own.

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
from typing import Any, TypeVar

import pytest
from confluent_kafka import Message, TopicPartition

from cifarctl import data, events, settings
from cifarctl.data import Images, Scenario
from cifarctl.flows.produce import produce as produce_flow
from cifarctl.registry import Registry
from cifarctl.settings import KafkaSettings, Settings
from cifarctl.stream import clients, codecs
from cifarctl.stream.clients import Topics
from cifarctl.stream.codecs import Prediction, Record

PATIENCE_S = 90.0
EventT = TypeVar("EventT")


def until(done: Callable[[], object], otherwise: Callable[[], str] = lambda: "it did not happen") -> None:
    """Wait for `done`; after the deadline fail with what `otherwise` says."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() >= deadline:
            pytest.fail(otherwise())
        time.sleep(0.02)


class Process:
    """A running ``cifarctl`` command, in a session of its own as if it had its own terminal."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], folder: Path, number: int) -> None:
        name = f"{number}-{arguments[0]}"
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
        self.until(self._ready.exists)
        assert self._ready.read_text() == f"{self.pid}\n"

    def await_line(self, text: str, times: int = 1) -> None:
        """Wait until stderr has shown `text` so many times."""
        self.until(lambda: self.err.count(text) >= times)

    def until(self, done: Callable[[], object]) -> None:
        """Wait for `done`, and only as long as the process runs."""

        def story() -> str:
            return f"it did not happen; stdout:\n{self.out[-2000:]}\nstderr:\n{self.err[-4000:]}"

        def happened() -> bool:
            ended = self._popen.poll() is not None
            if done():
                return True
            if ended:
                pytest.fail(f"ended with {self._popen.returncode} before; {story()}")
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


class Flow:
    """A flow in a thread, its events collected; what it raises is raised by `result`."""

    def __init__(self, stream: Callable[[threading.Event], Iterator[Any]]) -> None:
        self.events: list[Any] = []
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self._stream = stream(self.stop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def of(self, kind: type[EventT]) -> list[EventT]:
        """The events of one kind so far."""
        return [event for event in list(self.events) if isinstance(event, kind)]

    def until(self, done: Callable[[], object]) -> None:
        """Wait for `done`, and only as long as the flow runs."""

        def happened() -> bool:
            running = self._thread.is_alive()
            if done():
                return True
            if not running:
                raise self._failure or AssertionError(f"it ended before; last events: {self.events[-5:]}")
            return False

        until(happened, lambda: f"it did not happen; last events: {self.events[-5:]}")

    def result(self) -> Any:
        """Wait for the end; the last event."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it did not end"
        if self._failure is not None:
            raise self._failure
        return self.events[-1]

    def finish(self) -> Any:
        """Ask it to end; the last event."""
        self.stop.set()
        return self.result()

    def clean_up(self) -> None:
        self.stop.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        try:
            for event in self._stream:
                self.events.append(event)
        except BaseException as error:  # noqa: BLE001  told by result
            self._failure = error


class Topic:
    """All messages of a topic from its beginning, read outside any group; grows by looking."""

    def __init__(self, kafka: KafkaSettings, name: str) -> None:
        clients.ensure_topics(kafka, [name])
        self.records: list[Record] = []
        self._consumer = clients.consumer(kafka, f"{kafka.group_id}.looking-on")
        self._consumer.assign([TopicPartition(name, number, 0) for number in range(kafka.partitions)])

    def look(self) -> list[Record]:
        """All records so far, in the order of their timestamps."""
        while messages := self._consumer.consume(1000, 0.05):
            self.records += [_record(message) for message in messages if message.error() is None]
        self.records.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        return self.records

    def clean_up(self) -> None:
        self._consumer.close()


@dataclass
class Site:
    """A place of its own for a test: folder, registry, topics, settings; ends at its end all that was started."""

    folder: Path
    kafka: KafkaSettings
    options: dict[str, Any]
    _running: list[Any] = field(default_factory=list)

    @property
    def topics(self) -> Topics:
        return Topics.of(self.kafka.topic_prefix)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings().registry)

    def settings(self, **changes: Any) -> Settings:
        """The settings that the processes have; changes as ``serve__batch_size=5``."""
        return settings.load(self.options | _dotted(changes))

    def start(self, *arguments: str, **changes: Any) -> Process:
        """Start ``cifarctl``; it has the settings through its environment."""
        given = self.options | _dotted(changes)
        environment = {f"CIFARCTL_{name.upper().replace('.', '__')}": str(value) for name, value in given.items()}
        process = Process(arguments, environment, self.folder, len(self._running))
        self._running.append(process)
        return process

    def run(self, *arguments: str, code: int = 0, **changes: Any) -> Process:
        """Run ``cifarctl`` to its end, which must be `code`."""
        process = self.start(*arguments, **changes)
        assert process.wait() == code, process.err
        return process

    def flow(self, stream: Callable[[threading.Event], Iterator[Any]]) -> Flow:
        """Start a flow in a thread."""
        flow = Flow(stream)
        self._running.append(flow)
        return flow

    def topic(self, name: str) -> Topic:
        """Look on at a topic; `name` is a field of `Topics`."""
        topic = Topic(self.kafka, getattr(self.topics, name))
        self._running.append(topic)
        return topic

    def stream_images(self) -> Images:
        """The images that `produce` sends."""
        dataset = data.load(self.settings().data)
        chosen = self.settings().data
        return dataset.train.take(data.split(dataset.train.labels, chosen.split, chosen.split_seed).stream)

    def produce(
        self, count: int | None, *, drift: str = "", stop: threading.Event | None = None, **changes: Any
    ) -> Iterator[events.ProduceEvent]:
        """The flow behind ``cifarctl produce``, at full speed unless told otherwise."""
        chosen = self.settings(**({"produce__rate": 0} | changes))
        return produce_flow(
            self.stream_images(),
            chosen.kafka,
            chosen.produce,
            chosen.serve,
            count=count,
            drift=Scenario.parse(drift),
            stop=stop,
        )

    def send(self, count: int, **options: Any) -> None:
        """Produce `count` images and see them acknowledged."""
        *_, result = self.produce(count, **options)
        assert isinstance(result, events.ProduceResult)
        assert (result.sent, result.failed) == (count, 0)

    def clean_up(self) -> None:
        for running in reversed(self._running):
            running.clean_up()


@pytest.fixture
def site(tmp_path: Path, kafka: KafkaSettings, trained: Path) -> Iterator[Site]:
    """A site with a registry whose production version knows the synthetic images a little."""
    shutil.copytree(trained, tmp_path / "registry")
    names = ("bootstrap_servers", "topic_prefix", "group_id", "session_timeout_ms", "commit_interval_ms")
    options = {f"kafka.{name}": getattr(kafka, name) for name in names}
    site = Site(tmp_path, kafka, DATA | options | {"registry.dir": tmp_path / "registry"})
    yield site
    site.clean_up()


DATA: dict[str, Any] = {"data.source": "synthetic", "data.synthetic_images": 4000}
_trained: list[Path] = []


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version, trained through the command line; one for all modules. Copy it."""
    if not _trained:
        folder = tmp_path_factory.mktemp("trained")
        site = Site(folder, KafkaSettings(), DATA | {"registry.dir": folder / "registry"})
        site.run("train", "--epochs", "4", "--quiet")
        _trained.append(folder / "registry")
    return _trained[0]


def predictions(topic: Topic) -> list[Prediction]:
    """What the predictions topic holds so far."""
    return [codecs.decode_prediction(record.value) for record in topic.look()]


def ids(topic: Topic) -> list[str]:
    """The ids of the images topic so far, where headers carry them."""
    return [(dict(record.headers)["id"] or b"").decode() for record in topic.look()]


def children(pid: int) -> dict[int, str]:
    """Child processes and their command lines."""
    if sys.platform == "linux":  # where ps may not be installed
        return {int(folder.name): line for folder, parent, line in _linux_processes() if parent == pid}
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and int(row[1]) == pid}


def learner_of(pid: int) -> int:
    """The process id of the learner that ``serve --online`` has started."""
    (found,) = [child for child, command in children(pid).items() if "spawn_main" in command]
    return found


def tutorial() -> ModuleType:
    """The module benchmarks/tutorial.py, which is no part of any package."""
    path = Path(__file__).parent.parent / "benchmarks" / "tutorial.py"
    spec = importlib.util.spec_from_file_location("tutorial", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tutorial"] = module  # where its dataclasses look for their annotations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kafka-python reads its schemas in a way that Python 3.11 deprecates
        spec.loader.exec_module(module)
    return module


def _linux_processes() -> Iterator[tuple[Path, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield folder, parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def _record(message: Message) -> Record:
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    return Record(*place, message.timestamp()[1], message.key(), message.value(), tuple(message.headers() or ()))


def _dotted(changes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in changes.items()}
