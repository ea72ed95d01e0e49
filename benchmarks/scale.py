"""Scale-out: one `serve` process against two of the same group, on a topic of six partitions.

Measures predictions a second over a topic that is filled while the processes, which have joined the group already,
are halted (SIGSTOP, shorter than their session): from the first prediction's timestamp to the last one's. And how the
messages were shared. On two cores two processes do not double the rate: broker and clients need theirs too.

    python -m benchmarks.scale [--count 40000] [--rounds 3] [--backend eager] [--threads 1]

Exit status 1 if one of two processes does less than a quarter of the work. Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from contextlib import ExitStack

from confluent_kafka import Consumer, TopicPartition

from benchmarks.bed import RUN, Bed, Requirement, bed, options, table, verdict

PARTITIONS = 6
PATIENCE_S = 120.0


def members(bench: Bed, group: str) -> list[int]:
    """How many partitions each member of the group has."""
    (answer,) = bench.admin.describe_consumer_groups([group], request_timeout=10).values()
    return [len(member.assignment.topic_partitions) for member in answer.result().members]


def times(bench: Bed, topic: str) -> tuple[int, int, int]:
    """First and last timestamp of a topic in milliseconds, and the number of its records."""
    reader = Consumer(
        {
            "bootstrap.servers": bench.servers,
            "group.id": topic,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
    reader.assign([TopicPartition(topic, number, 0) for number in partitions])
    left, stamps = len(partitions), []
    while left:
        for message in reader.consume(10_000, 0.5):
            if message.error() is None:
                stamps.append(message.timestamp()[1])
            else:
                left -= 1
    reader.close()
    return min(stamps), max(stamps), len(stamps)


def measure(bench: Bed, prefix: str, processes: int, count: int, **chosen: object) -> tuple[float, list[int]]:
    """Predictions a second, and what each process answered."""
    bench.topics(prefix, PARTITIONS)
    with ExitStack() as stack:
        servers = [stack.enter_context(bench.serving(prefix=prefix, group=prefix, **chosen)) for _ in range(processes)]
        fair = [PARTITIONS // processes] * processes
        servers[0].until(lambda: members(bench, prefix) == fair, PATIENCE_S, step_s=0.2)
        for server in servers:
            server.signal(signal.SIGSTOP)
        bench.feed("raw", count, prefix)
        for server in servers:
            server.signal(signal.SIGCONT)
        servers[0].until(lambda: sum(bench.committed(prefix, prefix).values()) >= count, PATIENCE_S, step_s=0.2)
        answered = [int(server.stop()["predicted"]) for server in servers]
    first, last, found = times(bench, f"{prefix}.predictions")
    bench.drop(prefix)
    if found < count:
        raise SystemExit(f"{found} predictions of {count} messages")
    return found / max(1, last - first) * 1000, answered


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, "benchmarks.scale")
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    figures: dict[str, list[float]] = defaultdict(list)
    smallest = []
    with bed(given) as bench:
        for number in range(given.rounds):
            for processes in (1, 2):
                prefix = f"{RUN}-{processes}-{number}"
                chosen = {"serve__backend": given.backend, "serve__threads": given.threads}
                rate, answered = measure(bench, prefix, processes, given.count, **chosen)
                figures[f"{processes} serve process{'es' * (processes > 1)}"].append(rate)
                if processes == 2:
                    smallest.append(min(answered) / given.count)
    one, two = table(f"serve, raw, {given.backend}, {PARTITIONS} partitions", "messages/s", figures).values()
    required = [
        Requirement("two processes : one", two / one),
        Requirement("smaller share of the work of two", min(smallest), least=0.25),
    ]
    sys.exit(verdict("scale", required))


if __name__ == "__main__":
    main()
