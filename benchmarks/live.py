"""The same drifting stream live, through a broker, and as a prequential run without one.

`cifarctl produce --rate 20 --drift PRESET` into `cifarctl serve --online`, and `cifarctl eval --stream PRESET --rate
20 --compare frozen,online` with the same version and images: what users got beside what the run without a broker says
they get, the learner's own seconds counted in both.

Required: the two accuracies within 1.5 points of each other.

    python -m benchmarks.live [--preset covariate] [--rate 20] [--count 10000]

Takes count / rate seconds and half an hour more. Exit status 1 if a requirement is missed. Last run: see
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.bed import Bed, Requirement, bed, options, verdict
from benchmarks.process import run

LIMIT_POINTS = 1.5


def live(bench: Bed, given: argparse.Namespace) -> dict[str, Any]:
    """The result of `serve --online` on the whole stream."""
    count = str(given.count)
    with bench.serving("--online", "--max-messages", count) as server:
        server.until(lambda: "learner started" in server.told(), 120)
        run(bench.command("produce", "--rate", str(given.rate), "--count", count, "--drift", given.preset))
        return server.result(120)


def alone(bench: Bed, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The results of the run without a broker, by strategy."""
    words = ["--version", "1", "--stream", given.preset, "--rate", str(given.rate), "--images", str(given.count)]
    found = run(bench.command("eval", *words, "--compare", "frozen,online")).result
    return {result["strategy"]: result for result in found["results"]}


def compare(bench: Bed, given: argparse.Namespace) -> list[Requirement]:
    """Run both and print the table."""
    frozen, online = alone(bench, given).values()
    served = live(bench, given)
    print(f"\n{given.preset}, {given.count:,} images, {given.rate:g} a second")
    print(f"{'':<40}{'accuracy':>10}{'updates':>10}{'promotions':>12}")
    for name, figures in (
        ("eval --stream, frozen", (frozen["prequential_accuracy"], frozen["updates"], frozen["promotions"])),
        ("eval --stream, online", (online["prequential_accuracy"], online["updates"], online["promotions"])),
        ("produce and serve --online", (served["accuracy"], served["retrains"], served["promotions"])),
    ):
        accuracy, updates, promotions = figures
        print(f"{name:<40}{accuracy:>10.1%}{updates:>10}{promotions:>12}")
    points = 100 * abs(served["accuracy"] - online["prequential_accuracy"])
    return [Requirement("live and eval --stream differ by points", points, most=LIMIT_POINTS)]


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, "benchmarks.live", epochs=10)
    parser.add_argument("--preset", default="covariate", help="stream (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20, help="images a second (default: %(default)s)")
    parser.add_argument("--count", type=int, default=10_000, help="images (default: %(default)s)")
    given = parser.parse_args()
    with bed(given) as bench:
        required = compare(bench, given)
    sys.exit(verdict("live", required))


if __name__ == "__main__":
    main()
