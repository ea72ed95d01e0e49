"""From produce to prediction, at a steady rate, as clients outside of cifarctl see it; then while a learner trains.

Measures the milliseconds between a producer's call of produce() and the moment when a consumer of the predictions has
the answer in hand, for a reader of everything (read_uncommitted) and one of what is committed only. Producer and
readers are processes of their own with nothing but confluent-kafka; the id of an image is its moment by the machine's
monotonic clock, so an answer tells its latency itself. The producer sends without lingering, on a schedule that does
not wait for anybody: message n is due n / rate seconds after the first. In turns, `--rounds` times, for `--seconds`
after a warm-up: `cifarctl serve`, and `cifarctl serve --online` on labelled images, whose learner really trains
meanwhile; percentiles are over all rounds. After a quarter of the seconds the images' colours are inverted, which is
what the learner promotes something for; that is rolled back within seconds, as by hand, and the learner begins anew
from what is served then. So updates, promotions and rollbacks are all among what is measured.

Required at 200 messages a second: for the reader of everything p50 <= 10 ms and p99 <= 30 ms, for the other one the
commit interval more; with the learner p99 at most twice what it is without, and p99.9 at most four times the p99
without.

    python -m benchmarks.latency [--rate 200] [--seconds 60] [--rounds 2]

Exit status 1 if a requirement is missed. Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer
from numpy.typing import NDArray

from benchmarks.bed import RUN, Bed, Requirement, bed, options, verdict
from benchmarks.process import Running
from cifarctl.errors import RegistryError
from cifarctl.registry import Registry
from cifarctl.settings import KafkaSettings, RegistrySettings
from cifarctl.stream import codecs

READERS = {"all": "read_uncommitted", "committed": "read_committed"}
ROLE = [sys.executable, "-m", "benchmarks.latency"]
PERCENTILES = (50, 95, 99, 99.9)
UPDATE = re.compile(r"^(?:promoted|rejected).*\(([0-9.]+) s\)$", re.MULTILINE)  # how serve tells of one
SWAP = re.compile(r"^now serving version ([0-9]+) \(was ([0-9]+)\)$", re.MULTILINE)
CLEAN = 0.25  # share of the seconds before colours are inverted
FIRST = 1  # version
LOOK_S = 3.0
Milliseconds = NDArray[np.float64]


def send(servers: str, topic: str, images: Path, labels: Path, rate: float, count: int, clean: int) -> dict[str, Any]:
    """Send `count` images on schedule, inverted after `clean`; how late the calls were against it, in milliseconds."""
    pixels, classes = np.load(images), np.load(labels).tolist()
    pictures = [[image.tobytes() for image in shown] for shown in (pixels, 255 - pixels)]
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0, "acks": "all"})
    producer.list_topics(topic, timeout=10)
    late = []
    began = time.monotonic()
    for number in range(count):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        index = number % len(classes)
        id = str(time.monotonic_ns())
        headers: list[Any] = codecs.headers_for("raw", id, classes[index])
        producer.produce(topic, pictures[number >= clean][index], id, headers=headers)
        late.append((time.monotonic() - due) * 1000)
        producer.poll(0)
    if left := producer.flush(30):
        raise TimeoutError(f"{left} messages were not acknowledged")
    return {"sent": len(late), "late_p99_ms": float(np.percentile(late, 99))}


def read(servers: str, topic: str, isolation: str, count: int, ready: Path, into: Path) -> dict[str, Any]:
    """Read `count` answers, from now on; moments sent (monotonic, ns) and latencies (ms) go `into` a file."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"{topic}.{isolation}",
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,  # half of which the embedded broker lets pass before it answers
        }
    )
    consumer.subscribe([topic], on_assign=lambda *_: ready.touch())
    moments, taken = np.zeros(count, dtype=np.int64), np.zeros(count)
    number = 0
    while number < count:
        message = consumer.poll(30)
        now = time.monotonic_ns()
        if message is None or message.error() is not None:
            raise TimeoutError(f"{topic}: {number} of {count} answers came: {message and message.error()}")
        moments[number] = int(message.key() or b"0")
        taken[number] = (now - moments[number]) / 1e6
        number += 1
    consumer.close()
    np.savez(into, moments=moments, taken=taken)
    return {"read": number}


def take_back(server: Running, sender: Running, registry: Registry, patience_s: float) -> int:
    """While `sender` runs, roll back by hand, each `LOOK_S` seconds, what the learner has promoted; how often.

    Raises:
        SystemExit: the server has ended before, or the sender does not end.
    """
    count = 0

    def over() -> bool:
        nonlocal count
        promoted = registry.resolve("production")
        swaps = SWAP.findall(server.told())
        if promoted != FIRST and swaps and int(swaps[-1][0]) == promoted:
            with suppress(RegistryError):  # the learner has done so itself meanwhile
                registry.rollback(who="benchmarks.latency", why="by hand")
                count += 1
        return not sender.running

    server.until(over, patience_s, LOOK_S)
    return count


def measure(bench: Bed, prefix: str, given: argparse.Namespace, *, online: bool) -> dict[str, Any]:
    """One run: latencies in milliseconds by reader, how late the producer was, and what the learner did.

    Of this the number of updates, of versions swapped in and of those taken back, and the share of time in training.
    """
    bench.topics(prefix)
    count = int(given.rate * (given.warm_up + given.seconds))
    clean = int(given.rate * (given.warm_up + CLEAN * given.seconds))
    registry = Registry(RegistrySettings(dir=bench.folder / "registry"))
    registry.promote(FIRST, who="benchmarks.latency", why="whatever the run before has made")
    shutil.rmtree(bench.folder / "registry" / "learner", ignore_errors=True)  # which has learned the drift before
    readers = READERS if bench.broker.exactly_once else {"all": READERS["all"]}
    files = {name: bench.folder / f"{prefix}-{name}.npz" for name in readers}
    words = ["--servers", bench.servers, "--rate", str(given.rate), "--count", str(count), "--clean", str(clean)]
    words += ["--images", str(bench.images), "--labels", str(bench.labels)]
    with ExitStack() as stack:
        server = stack.enter_context(bench.serving(*(["--online"] if online else []), prefix=prefix, group=prefix))
        if online:  # it loads the data set first
            server.until(lambda: "learner started" in server.told(), 120)
        reading = []
        for name, isolation in readers.items():
            ready = bench.folder / f"{prefix}-{name}.ready"
            own = ["--role", isolation, "--topic", f"{prefix}.predictions", "--ready", str(ready)]
            reading.append(stack.enter_context(Running([*ROLE, *words, *own, "--into", str(files[name])])))
            reading[-1].until(ready.exists, 60)
        sender = stack.enter_context(Running([*ROLE, *words, "--role", "send", "--topic", f"{prefix}.images"]))
        patience_s = count / given.rate + 60
        back = take_back(server, sender, registry, patience_s) if online else 0
        told = sender.result(patience_s)
        for reader in reading:
            reader.result(60)
        result = server.stop()
        training = sum(map(float, UPDATE.findall(server.told())))
        forth = sum(int(new) > int(old) for new, old in SWAP.findall(server.told()))
    updates = result.get("retrains", 0)
    if online and not (updates and forth and back):
        raise SystemExit(
            f"{updates} updates, {forth} versions swapped in, {back} taken back: not what is to be measured; "
            "more --seconds, or fewer online.update_every"
        )
    latencies = {}
    for name, file in files.items():
        with np.load(file) as found:
            moments, taken = found["moments"], found["taken"]
        latencies[name] = taken[moments >= moments.min() + given.warm_up * 1e9]
    bench.drop(prefix)
    learner = (updates, forth, back, training / (count / given.rate))
    return {"latencies": latencies, "late": told["late_p99_ms"], "learner": learner}


def row(name: str, milliseconds: Milliseconds, late: float, note: str = "") -> str:
    """One line of the table."""
    shown = "".join(f"{value:>9.1f}" for value in np.percentile(milliseconds, PERCENTILES))
    return f"{name:<40}{shown}{milliseconds.max():>9.1f}{late:>10.1f}{len(milliseconds):>9,}  {note}"


def compare(bench: Bed, given: argparse.Namespace) -> list[Requirement]:
    """Run both in turns and print the table."""
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for number in range(given.rounds):
        for online in runs:
            runs[online].append(
                measure(bench, f"{RUN}-{number}-{'online' if online else 'alone'}", given, online=online)
            )
    heads = "".join(f"{f'p{share:g}':>9}" for share in PERCENTILES)
    print(f"\n{f'{given.rate:g} messages/s, milliseconds':<40}{heads}{'most':>9}{'late p99':>10}{'count':>9}")
    found: dict[tuple[bool, str], Milliseconds] = {}
    for online, measured in runs.items():
        updates, forth, back, share = np.sum([run["learner"] for run in measured], axis=0)
        note = ""
        if online:
            note = f"{updates:.0f} updates, {share / len(measured):.0%} of the time; {forth:.0f} versions swapped in, "
            note += f"{back:.0f} taken back"
        for name in measured[0]["latencies"]:
            pooled = found[online, name] = np.concatenate([run["latencies"][name] for run in measured])
            late = max(run["late"] for run in measured)
            words = f"{'serve --online' if online else 'serve'}, reader of {READERS[name]}"
            print(row(words, pooled, late, note))

    def percentile(online: bool, name: str, share: float) -> float:
        return float(np.percentile(found[online, name], share))

    interval = KafkaSettings().commit_interval_ms
    required = [
        Requirement("p50, read_uncommitted, ms", percentile(False, "all", 50), most=10),
        Requirement("p99, read_uncommitted, ms", percentile(False, "all", 99), most=30),
    ]
    if (False, "committed") in found:
        required += [
            Requirement("p50, read_committed, ms", percentile(False, "committed", 50), most=10 + interval),
            Requirement("p99, read_committed, ms", percentile(False, "committed", 99), most=30 + interval),
        ]
    alone = percentile(False, "all", 99)
    return required + [
        Requirement(
            f"p{share:g} while a learner trains : p99 without", percentile(True, "all", share) / alone, most=most
        )
        for share, most in ((99, 2), (99.9, 4))
    ]


def main() -> None:
    """Measure and print; or, as a process of the harness, play a `--role`."""
    parser = options(__doc__, "benchmarks.latency")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--role", choices=("send", *READERS.values()), help=argparse.SUPPRESS)
    for name in ("servers", "topic"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("images", "labels", "ready", "into"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    for name in ("count", "clean"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()

    if given.role == "send":
        where = (given.servers, given.topic, given.images, given.labels)
        print(json.dumps(send(*where, given.rate, given.count, given.clean)))
    elif given.role:
        print(json.dumps(read(given.servers, given.topic, given.role, given.count, given.ready, given.into)))
    else:
        with bed(given) as bench:
            required = compare(bench, given)
        sys.exit(verdict("latency", required))


if __name__ == "__main__":
    main()
