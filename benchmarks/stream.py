"""Producing and serving: cifarctl against the tutorial's producer and consumer, on one broker in one run.

Measures messages a second of
- `cifarctl produce --rate 0`, raw and JSON, against the tutorial's producer (kafka-python, JSON, a flush after every
  message) without its pause of five seconds; from the first message to the last acknowledgement;
- `cifarctl serve`, raw and JSON, against the tutorial's consumer (kafka-python, one image a forward pass), the same
  weights in both, from topics that are already full; from the first message read to the last prediction handed over.
Each is a process of its own; the sides take turns, `--rounds` times, and the figure is the median. The tutorial's
side handles fewer messages because it is slow. Its consumer is run with PyTorch's default of threads, as the
tutorial does, and with one, which is faster for one image where others compete for the cores; ratios are to the
better of the two. The broker is the embedded one, or the one that CIFARCTL_KAFKA__BOOTSTRAP_SERVERS names, whose
topics of the run are deleted at the end.

    python -m benchmarks.stream [--count 10000] [--tutorial-count 1000] [--rounds 3]

CIFAR-10 is looked for in the setting data.dir (CIFARCTL_DATA__DIR).

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from confluent_kafka.admin import AdminClient

from benchmarks.process import CIFARCTL, TUTORIAL, machine, run
from benchmarks.tutorial import Net
from cifarctl import settings
from cifarctl.stream.embedded import EmbeddedBroker

SERVERS = "CIFARCTL_KAFKA__BOOTSTRAP_SERVERS"
RUN = f"benchmark-{uuid.uuid4().hex[:8]}"  # beginning of all topics and groups of this run
FORMATS = ("raw", "json")


@contextmanager
def broker() -> Iterator[str]:
    """The address of a broker, which is left as it was found."""
    if servers := os.environ.get(SERVERS):
        yield servers
        admin = AdminClient({"bootstrap.servers": servers})
        made = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(RUN)]
        for deleted in (admin.delete_topics(made) if made else {}).values():
            deleted.result()
    else:
        with EmbeddedBroker() as embedded:
            yield embedded.bootstrap_servers


class Bench:
    """What all measurements share: the broker, the images and a registry that holds the tutorial's network."""

    def __init__(self, servers: str, data: Path, folder: Path) -> None:
        self.servers, self.data, self.weights = servers, data, folder / "net.pt"
        places = {"data.source": "cifar10", "data.dir": data, "registry.dir": folder / "registry"}
        self._common = [word for name, value in places.items() for word in ("--set", f"{name}={value}")]
        torch.manual_seed(0)
        torch.save(Net().state_dict(), self.weights)
        self.cifarctl("registry", "import", str(self.weights), "--promote")

    def cifarctl(self, *words: str, prefix: str = RUN, group: str = RUN) -> float:
        """Run a command of ours; its messages a second, 0 where it tells none."""
        names = {"kafka.bootstrap_servers": self.servers, "kafka.topic_prefix": prefix, "kafka.group_id": group}
        chosen = [word for name, value in names.items() for word in ("--set", f"{name}={value}")]
        result = run([*CIFARCTL, *words, "--json", *self._common, *chosen]).result
        return float(result.get("messages_per_second", 0))

    def tutorial(self, *words: str) -> float:
        """Run a script of the tutorial; its messages a second."""
        return float(run([*TUTORIAL, *words, "--servers", self.servers]).result["messages_per_second"])

    def produce(self, form: str, count: int, prefix: str) -> float:
        """`cifarctl produce` at full speed."""
        return self.cifarctl("produce", "--rate", "0", "--count", str(count), "--format", form, prefix=prefix)

    def serve(self, form: str, count: int, number: int) -> float:
        """`cifarctl serve` of the full topic of that format, in a group of its own."""
        group = f"{RUN}-{form}-{number}"
        return self.cifarctl("serve", "--max-messages", str(count), prefix=f"{RUN}-full-{form}", group=group)


def table(title: str, figures: dict[str, list[float]]) -> None:
    """Print the median of each and its ratio to the best of the tutorial's."""
    base = max(statistics.median(values) for name, values in figures.items() if name.startswith("tutorial"))
    print(f"\n{title:<28}{'messages/s':>12}{'least':>10}{'most':>10}{'ratio':>9}")
    for name, values in figures.items():
        middle = statistics.median(values)
        print(f"{name:<28}{middle:>12,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{middle / base:>8.1f}x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--tutorial-count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    data = settings.load().data.dir.resolve()
    few = str(given.tutorial_count)

    print(machine())
    with broker() as servers, tempfile.TemporaryDirectory() as folder:
        bench = Bench(servers, data, Path(folder))

        produced: dict[str, list[float]] = defaultdict(list)
        words = ("produce", "--data", str(data), "--interval", "0", "--count", few)
        for number in range(given.rounds):
            for form in FORMATS:
                produced[f"cifarctl, {form}"].append(bench.produce(form, given.count, f"{RUN}-{form}-{number}"))
            produced["tutorial, json"].append(bench.tutorial(*words, "--topic", f"{RUN}-tutorial-{number}"))
        table("produce", produced)

        for form in FORMATS:
            bench.produce(form, given.count, f"{RUN}-full-{form}")
        served: dict[str, list[float]] = defaultdict(list)
        topics = ("--topic", f"{RUN}-full-json.images", "--predictions", f"{RUN}-tutorial-answers")
        consume = ("consume", "--model", str(bench.weights), "--count", few, *topics)
        for number in range(given.rounds):
            for form in FORMATS:
                served[f"cifarctl, {form}"].append(bench.serve(form, given.count, number))
            served["tutorial, json"].append(bench.tutorial(*consume))
            served["tutorial, json, one thread"].append(bench.tutorial(*consume, "--threads", "1"))
        table("serve", served)


if __name__ == "__main__":
    main()
