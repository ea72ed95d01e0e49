"""How long `cifarctl --help` takes, and how long `cifarctl serve` takes until it is ready.

Measures wall clock, each time a process of its own, in pairs one after the other so that the machine's noise meets
both:
- `cifarctl --help` against `python -c "import typer, rich.console"`, the two packages that it cannot do without;
  the median ratio of the pairs must be at most 1.5;
- `cifarctl serve` until its ready file is there (model loaded and checked, topic subscribed; with the host's cache of
  backends warm, as at every start but the first) against `python -c "import torch"`; the median difference of the
  pairs must be less than 2 s.
Exit status 1 otherwise.

    python -m benchmarks.startup [--pairs 20] [--serve-pairs 7] [--backend auto]

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bed import RUN, Bed, Requirement, bed, options, verdict

HELP = [str(Path(sys.executable).with_name("cifarctl")), "--help"]
BARE = [sys.executable, "-c", "import typer, rich.console"]
TORCH = [sys.executable, "-c", "import torch"]
Pair = tuple[Callable[[], float], Callable[[], float]]


def seconds(command: list[str]) -> float:
    """Wall clock of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def until_ready(bench: Bed, backend: str) -> float:
    """Wall clock from the start of `serve` until it is ready."""
    began = time.perf_counter()
    with bench.serving(serve__backend=backend, group=f"{RUN}-{began}"):
        return time.perf_counter() - began


def in_turns(sides: Pair, pairs: int) -> list[tuple[float, float]]:
    """Seconds of both sides, each first in half of the pairs; a first run writes compiled modules and caches."""
    ours, theirs = sides
    ours(), theirs()
    measured = []
    for number in range(pairs):
        if number % 2:
            measured.append((ours(), theirs()))
        else:
            other = theirs()
            measured.append((ours(), other))
    return measured


def show(names: tuple[str, str], measured: list[tuple[float, float]]) -> None:
    """Two lines."""
    for name, times in zip(names, zip(*measured, strict=True), strict=True):
        print(f"{name:<40}{statistics.median(times) * 1000:>9.1f} ms (median of {len(times)})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, "benchmarks.startup")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--serve-pairs", type=int, default=7)
    parser.add_argument("--backend", default="auto")
    given = parser.parse_args()

    with bed(given) as bench:
        helps = in_turns((lambda: seconds(HELP), lambda: seconds(BARE)), given.pairs)
        show(("cifarctl --help", "import typer, rich.console"), helps)
        starts = in_turns((lambda: until_ready(bench, given.backend), lambda: seconds(TORCH)), given.serve_pairs)
        show(("cifarctl serve, until it is ready", "import torch"), starts)
    required = [
        Requirement(
            "cifarctl --help : import typer, rich.console", statistics.median(a / b for a, b in helps), most=1.5
        ),
        Requirement("serve until ready - import torch, s", statistics.median(a - b for a, b in starts), most=2),
    ]
    sys.exit(verdict("startup", required))


if __name__ == "__main__":
    main()
