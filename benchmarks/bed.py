"""The test bed of the streaming benchmarks: a broker, the images as bytes, a trained model, and our commands on them.

The broker is the one that CIFARCTL_KAFKA__BOOTSTRAP_SERVERS names, else an Apache Kafka that is started for the run
(Java and Maven), else the embedded one, which cannot do transactions; `--broker` insists on one of them. Topics of a
run begin with a name of its own; those of a broker that goes on running are deleted at the end.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks import record
from benchmarks.process import CIFARCTL, TUTORIAL, Ran, Running, machine, run
from cifarctl import settings
from cifarctl.stream import clients
from cifarctl.stream.embedded import EmbeddedBroker

SERVERS = "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS"
BROKERS = ("auto", "apache", "embedded")
RUN = f"benchmark-{uuid.uuid4().hex[:8]}"  # beginning of all topics and groups of this run
FEED = [sys.executable, "-m", "benchmarks.feed"]
MODEL = [sys.executable, "-m", "benchmarks.model"]
QUIX = [sys.executable, "-m", "benchmarks.quix"]
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Broker:
    """Where it answers, what it is, and, where the run has started it and can, how to halt it and let it go on."""

    servers: str
    name: str
    exactly_once: bool
    pause: Callable[[], None] | None = None
    resume: Callable[[], None] | None = None


@contextmanager
def broker(wanted: str = "auto") -> Iterator[Broker]:
    """The broker of this run.

    Raises:
        SystemExit: Apache Kafka is insisted on and cannot be had.
    """
    if wanted == "auto" and (servers := os.environ.get(SERVERS)):
        once = not clients.check(settings.load().kafka).embedded
        yield Broker(servers, f"the broker at {servers}", exactly_once=once)
        _delete(servers, RUN)
        return
    if wanted != "embedded":
        from tests.support.apache_kafka import ApacheKafka, unavailable

        if (reason := unavailable()) is None:
            with ApacheKafka(lasting=True) as kafka:
                name = "Apache Kafka, one KRaft node on this machine"
                yield Broker(kafka.bootstrap_servers, name, exactly_once=True, pause=kafka.pause, resume=kafka.resume)
            return
        if wanted == "apache":
            raise SystemExit(reason)
        print(f"NO APACHE KAFKA, these figures are not the ones required: {reason}")
    os.environ.pop(record.VARIABLE, None)  # the requirements are those on Apache Kafka, so nothing is recorded
    with EmbeddedBroker() as embedded:
        yield Broker(embedded.bootstrap_servers, "the embedded broker, at least once only", exactly_once=False)


class Bed:
    """Broker, data and registry of a run; every command is told of them on its command line."""

    def __init__(self, place: Broker, folder: Path) -> None:
        """Commands can be run; model, weights and images are there after `train`."""
        self.broker, self.servers, self.folder = place, place.servers, folder
        self.data = settings.load().data.dir.resolve()
        self.images, self.labels, self.weights = (folder / name for name in ("images.npy", "labels.npy", "net.pt"))
        places = {
            "data.source": "cifar10",
            "data.dir": self.data,
            "registry.dir": folder / "registry",
            "kafka.bootstrap_servers": place.servers,
        }
        self._common = _assigned(places)
        self.admin = _admin(place.servers)

    def train(self, epochs: int) -> None:
        """Train `net`; write its weights for the tutorial's class, and the stream's images, into the folder."""
        import torch

        from benchmarks.tutorial import Net
        from cifarctl import data
        from cifarctl.registry import Registry
        from cifarctl.registry.loading import load
        from cifarctl.settings import DataSettings, RegistrySettings

        run([*CIFARCTL, "train", "--json", "--promote", "--epochs", str(epochs), *self._common])
        trained = load(Registry(RegistrySettings(dir=self.folder / "registry")), 1).model.state_dict()
        torch.save(dict(zip(Net().state_dict(), trained.values(), strict=True)), self.weights)
        chosen = DataSettings(source="cifar10", dir=self.data)
        examples = data.load(chosen).train
        stream = examples.take(data.split(examples.labels, chosen.split, chosen.split_seed).stream)
        np.save(self.images, stream.pixels.numpy())
        np.save(self.labels, stream.labels.numpy())

    def command(self, *words: str, prefix: str = RUN, group: str = RUN, **chosen: object) -> list[str]:
        """A command of ours as words; settings as ``serve__backend="eager"``."""
        own = {"kafka.topic_prefix": prefix, "kafka.group_id": group}
        own |= {name.replace("__", "."): str(value) for name, value in chosen.items()}
        return [*CIFARCTL, *words, "--json", *self._common, *_assigned(own)]

    def cifarctl(self, *words: str, **chosen: Any) -> dict[str, Any]:
        """Run a command of ours to its end; its result."""
        return run(self.command(*words, **chosen)).result

    @contextmanager
    def serving(self, *words: str, **chosen: Any) -> Iterator[Running]:
        """`cifarctl serve` in the background, ready when the block begins; killed if it still runs at its end."""
        ready = self.folder / f"ready-{uuid.uuid4().hex}"
        with Running(self.command("serve", "--ready-file", str(ready), *words, **chosen)) as process:
            process.until(ready.exists, PATIENCE_S)
            yield process

    def tutorial(self, *words: str) -> float:
        """Run a script of the tutorial; its messages a second."""
        return _rate(run([*TUTORIAL, *words, "--servers", self.servers]))

    def quix(
        self, topic: str, predictions: str, guarantee: str, count: int, packages: Path, interval_s: float | None = None
    ) -> float:
        """Run the quix-streams application with the libraries in `packages`; its messages a second."""
        words = ["--servers", self.servers, "--topic", topic, "--predictions", predictions, "--count", str(count)]
        words += ["--model", str(self.weights), "--guarantee", guarantee]
        words += [] if interval_s is None else ["--commit-interval", str(interval_s)]
        paths = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH", "")]))
        return _rate(run([*QUIX, *words], {"PYTHONPATH": paths}))

    def model(self, backend: str, batch: int, seconds: float) -> dict[str, Any]:
        """The model alone, as `serve` would run it: see benchmarks/model.py."""
        words = ["--images", str(self.images), "--batch", str(batch), "--seconds", str(seconds)]
        return run([*MODEL, *words, "--registry", str(self.folder / "registry"), "--backend", backend]).result

    def feed(self, kind: str, count: int, prefix: str) -> float:
        """Send with nothing but confluent-kafka: see benchmarks/feed.py; messages a second."""
        words = ["--servers", self.servers, "--topic", f"{prefix}.images", "--count", str(count), "--kind", kind]
        return _rate(run([*FEED, *words, "--images", str(self.images), "--labels", str(self.labels)]))

    def topics(self, prefix: str, partitions: int = 3) -> None:
        """Create the images topic, and the predictions' that quix-streams and the tutorial answer to."""
        names = (f"{prefix}.images", f"{prefix}.answers")
        made = self.admin.create_topics([NewTopic(name, partitions, 1) for name in names])
        for future in made.values():
            future.result()
        while not set(names) <= self.admin.list_topics(timeout=10).topics.keys():
            time.sleep(0.05)

    def drop(self, prefix: str) -> None:
        """Delete the topics of a measurement, so that the disk does not fill."""
        _delete(self.servers, prefix)

    def committed(self, prefix: str, group: str) -> dict[int, int]:
        """Messages of each partition of the images topic that the group has done with."""
        topic = f"{prefix}.images"
        reader = Consumer({"bootstrap.servers": self.servers, "group.id": group})
        try:
            partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
            places = [TopicPartition(topic, number) for number in partitions]
            return {place.partition: max(0, place.offset) for place in reader.committed(places, timeout=10)}
        finally:
            reader.close()


@contextmanager
def bed(given: argparse.Namespace) -> Iterator[Bed]:
    """A test bed with a trained model, by `options`; says where it is."""
    print(machine())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started ends as well
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cifarctl-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        place = stack.enter_context(broker(given.broker))
        made = Bed(place, folder.resolve())
        if not made.labels.exists():
            made.train(given.epochs)
        print(place.name, flush=True)
        yield made


def options(doc: str | None, module: str, epochs: int = 5) -> argparse.ArgumentParser:
    """The options that all of the streaming benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").splitlines()[0])
    parser.add_argument("--broker", choices=BROKERS, default="auto", help="insist on one; see benchmarks/bed.py")
    parser.add_argument("--epochs", type=int, default=epochs, help="of the model's training before the run")
    parser.add_argument("--keep", type=Path, help="a folder to keep the model in, for further runs")
    return parser


@dataclass(frozen=True)
class Requirement:
    """A ratio of two medians, and its bound: at least `least`, or at most `most`; NaN, which misses: not measured."""

    what: str
    ratio: float
    least: float = 0.0
    most: float = float("inf")

    @property
    def met(self) -> bool:
        """Whether it is so."""
        return self.least <= self.ratio <= self.most

    @property
    def bound(self) -> str:
        """The requirement in a word or two."""
        if self.most < float("inf"):
            return f"<= {self.most:g}"
        return f">= {self.least:g}" if self.least else record.REPORTED

    @property
    def figure(self) -> record.Figure:
        """The line of the record; the value has four digits behind the point."""
        value = round(self.ratio, 4) if math.isfinite(self.ratio) else None
        return record.Figure(self.what, self.bound, value, self.met)

    def __str__(self) -> str:
        return f"{self.what:<66}{self.ratio:>8.2f}   {self.bound:<9}{'' if self.met else '  MISSED'}"


def table(title: str, unit: str, figures: dict[str, list[float]]) -> dict[str, float]:
    """Print median, least and most of each; the medians."""
    print(f"\n{title:<40}{unit:>12}{'least':>10}{'most':>10}")
    middles = {name: statistics.median(values) for name, values in figures.items()}
    for name, values in figures.items():
        print(f"{name:<40}{middles[name]:>12,.0f}{min(values):>10,.0f}{max(values):>10,.0f}", flush=True)
    return middles


def verdict(benchmark: str, requirements: Sequence[Requirement]) -> int:
    """Print the requirements beside the figures, and record them where that is asked for; 1 if something is missed."""
    print(f"\n{'required':<66}{'ratio':>8}")
    for requirement in requirements:
        print(requirement)
    record.write(benchmark, [requirement.figure for requirement in requirements])
    return int(not all(requirement.met for requirement in requirements))


def _assigned(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def _rate(ran: Ran) -> float:
    return float(ran.result["messages_per_second"])


def _delete(servers: str, prefix: str) -> None:
    admin = _admin(servers)
    made = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]
    for deleted in (admin.delete_topics(made) if made else {}).values():
        with suppress(KafkaException):  # the embedded broker refuses some, and is gone in a moment anyway
            deleted.result()


def _admin(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers, "log_level": 2})  # a broker that ends is no news
