"""Producing and serving on Apache Kafka: cifarctl against the tutorial's scripts, quix-streams, bare clients, itself.

Measures messages a second of
- `cifarctl produce --rate 0`, raw and JSON, against the tutorial's producer (kafka-python, JSON, a flush after every
  message) without its pause of five seconds, and against a bare confluent-kafka loop over the same bytes
  (benchmarks/feed.py); from the first message to the last acknowledgement;
- `cifarctl serve` from topics that are already full, from the first message read to the last one answered: raw with
  the eager and with the fastest backend, exactly once and at least once, JSON, and nothing but bad input; against
  the tutorial's consumer (kafka-python, one image a forward pass), an application of quix-streams with either
  guarantee (benchmarks/quix.py), and the same model on batches of the same size without Kafka (benchmarks/model.py).
Each is a process of its own, all with the same trained weights; the sides take turns, `--rounds` times, and the figure
is the median. Slow sides handle fewer messages. The tutorial's consumer is run with PyTorch's default of threads, as
the tutorial does, and with one, which is faster where others compete for the cores; ratios are to the better of the
two. Without Apache Kafka (see benchmarks/bed.py) what needs transactions is left out.

    python -m benchmarks.stream [--count 30000] [--rounds 3] [--only produce|serve]

CIFAR-10 is looked for in the setting data.dir (CIFARCTL_DATA__DIR), quix-streams in --quix. Exit status 1 if a
requirement is missed.

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.bed import RUN, Bed, Requirement, bed, options, table, verdict
from cifarctl.settings import KafkaSettings, ServeSettings

ONCE, LEAST = "exactly-once", "at-least-once"
OFTEN = "quix-streams, exactly-once, at our commit interval"
MODEL_S = 3.0
Figures = dict[str, list[float]]


def produce(bench: Bed, given: argparse.Namespace) -> list[Requirement]:
    """The producers."""
    figures: Figures = defaultdict(list)
    words = ("produce", "--data", str(bench.data), "--interval", "0", "--count", str(given.tutorial_count))
    for number in range(given.rounds):
        prefix = f"{RUN}-produce-{number}"
        for form, count in (("raw", given.produce_count), ("json", given.produce_count // 8)):
            own = f"{prefix}-{form}"
            bench.topics(own)
            told = bench.cifarctl("produce", "--rate", "0", "--count", str(count), "--format", form, prefix=own)
            figures[f"cifarctl, {form}"].append(told["messages_per_second"])
        for form, count in (("raw", given.produce_count), ("json", given.produce_count // 8)):
            own = f"{prefix}-bare-{form}"
            bench.topics(own)
            figures[f"bare confluent-kafka, {form}"].append(bench.feed(form, count, own))
        bench.topics(f"{prefix}-tutorial")
        figures["tutorial, json"].append(bench.tutorial(*words, "--topic", f"{prefix}-tutorial.images"))
        bench.drop(prefix)
    rate = table("produce", "messages/s", figures)
    ours, bare, tutorial = "cifarctl, {}", "bare confluent-kafka, {}", rate["tutorial, json"]
    return [
        Requirement("produce raw : tutorial's producer", rate[ours.format("raw")] / tutorial, least=100),
        Requirement("produce raw : bare loop", rate[ours.format("raw")] / rate[bare.format("raw")], least=0.7),
        Requirement("produce json : tutorial's producer", rate[ours.format("json")] / tutorial),
        Requirement("produce json : bare loop", rate[ours.format("json")] / rate[bare.format("json")]),
    ]


def serve(bench: Bed, given: argparse.Namespace) -> list[Requirement]:
    """The consumers."""
    full = {kind: f"{RUN}-full-{kind}" for kind in ("raw", "json", "bad")}
    counts = {"raw": given.count, "json": given.count // 2, "bad": given.count}
    for kind, prefix in full.items():
        bench.topics(prefix)
        bench.feed(kind, counts[kind], prefix)
    best = ONCE if bench.broker.exactly_once else LEAST
    guarantees = (ONCE, LEAST) if bench.broker.exactly_once else (LEAST,)
    sides = {
        **{f"raw, fastest backend, {once}": ("raw", "auto", once) for once in guarantees},
        f"raw, eager, {best}": ("raw", "eager", best),
        f"json, fastest backend, {best}": ("json", "auto", best),
        f"nothing but bad input, {best}": ("bad", "auto", best),
    }
    batch = ServeSettings().batch_size
    images = ("--topic", f"{full['json']}.images", "--predictions", f"{full['json']}.answers")
    tutorial = ("consume", "--model", str(bench.weights), "--count", str(given.tutorial_count), *images)
    chosen = ""
    figures: Figures = defaultdict(list)
    # The first run chooses the backend and writes the host's cache; it counts for nothing.
    bench.cifarctl("serve", "--max-messages", "1", prefix=full["raw"], group=f"{RUN}-warm-up")
    for number in range(given.rounds):
        for name, (kind, backend, delivery) in sides.items():
            words = ("serve", "--max-messages", str(counts[kind]))
            group = f"{RUN}-{kind}-{backend}-{delivery}-{number}"
            told = bench.cifarctl(
                *words, prefix=full[kind], group=group, serve__backend=backend, kafka__delivery=delivery
            )
            figures[name].append(told["messages_per_second"])
        for backend, name in (("eager", "eager"), ("auto", "fastest backend")):
            told = bench.model(backend, batch, MODEL_S)
            chosen = told["backend"]
            figures[f"without Kafka, {name}"].append(told["messages_per_second"])
        figures["tutorial, json"].append(bench.tutorial(*tutorial))
        figures["tutorial, json, one thread"].append(bench.tutorial(*tutorial, "--threads", "1"))
        if given.quix.is_dir():
            for guarantee in guarantees:
                topics = (f"{full['raw']}.images", f"{full['raw']}.answers")
                rate = bench.quix(*topics, guarantee, given.quix_count, given.quix)
                figures[f"quix-streams, raw, {guarantee}"].append(rate)
            if bench.broker.exactly_once:
                interval_s = KafkaSettings().commit_interval_ms / 1000
                rate = bench.quix(*topics, ONCE, given.quix_count, given.quix, interval_s)
                figures[OFTEN].append(rate)
    bench.drop(f"{RUN}-full")
    rates = table("serve", "messages/s", figures)
    print(f"fastest backend: {chosen}")

    fastest, eager = rates[f"raw, fastest backend, {best}"], rates[f"raw, eager, {best}"]
    base = max(rates["tutorial, json"], rates["tutorial, json, one thread"])
    json, bad = rates[f"json, fastest backend, {best}"], rates[f"nothing but bad input, {best}"]
    required = [
        Requirement("serve raw, fastest backend : tutorial's consumer", fastest / base, least=30),
        Requirement("serve raw, eager : tutorial's consumer", eager / base),
        Requirement("serve json : tutorial's consumer", json / base, least=15),
        Requirement("serve raw, eager : without Kafka", eager / rates["without Kafka, eager"], least=0.85),
        Requirement(
            "serve raw, fastest backend : without Kafka", fastest / rates["without Kafka, fastest backend"], least=0.6
        ),
        Requirement("time of bad input : time of good raw input", fastest / bad, most=2),
    ]
    if bench.broker.exactly_once:
        least_once = rates[f"raw, fastest backend, {LEAST}"]
        required.append(Requirement("exactly once : at least once", fastest / least_once, least=0.9))
    if not given.quix.is_dir():
        print(f"no quix-streams in {given.quix}, its sides are left out: benchmarks/quix.py says how to get it")
        return required
    for guarantee in guarantees:
        ours, theirs = rates[f"raw, fastest backend, {guarantee}"], rates[f"quix-streams, raw, {guarantee}"]
        least = 6 if guarantee == LEAST else 0
        required.append(Requirement(f"serve raw : quix-streams, both {guarantee}", ours / theirs, least=least))
    if bench.broker.exactly_once:
        required.append(Requirement(f"serve raw : {OFTEN}", fastest / rates[OFTEN], least=8))
    return required


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, "benchmarks.stream")
    parser.add_argument("--count", type=int, default=30_000, help="images of serve")
    parser.add_argument("--produce-count", type=int, default=120_000)
    parser.add_argument("--tutorial-count", type=int, default=1000)
    parser.add_argument("--quix-count", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("produce", "serve"))
    parser.add_argument("--quix", type=Path, default=Path(sys.prefix) / "quix", help="folder of quix-streams")
    given = parser.parse_args()

    required: list[Requirement] = []
    with bed(given) as bench:
        for part in (produce, serve):
            if given.only in (None, part.__name__):
                required += part(bench, given)
    sys.exit(verdict("stream", required))


if __name__ == "__main__":
    main()
