"""How long `cifarctl --help` takes, against importing the two packages that it cannot do without.

Measures: the wall clock of `cifarctl --help` and of `python -c "import typer, rich.console"`, each a process of its
own, in pairs one after the other so that the machine's noise meets both; the figure is the median ratio of the pairs.
Required: at most 1.5 (exit status 1 otherwise).

    python -m benchmarks.startup [--pairs 20]

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.process import machine

LIMIT = 1.5
HELP = [str(Path(sys.executable).with_name("cifarctl")), "--help"]
BARE = [sys.executable, "-c", "import typer, rich.console"]


def seconds(command: list[str]) -> float:
    """Wall clock of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs

    print(machine())
    for command in (HELP, BARE):  # the first run writes the compiled modules
        seconds(command)
    helps: list[float] = []
    bares: list[float] = []
    for pair in range(pairs):
        for command, times in ((HELP, helps), (BARE, bares)) if pair % 2 else ((BARE, bares), (HELP, helps)):
            times.append(seconds(command))
    ratio = statistics.median(a / b for a, b in zip(helps, bares, strict=True))
    print(f"cifarctl --help              {statistics.median(helps) * 1000:6.1f} ms (median of {pairs})")
    print(f"import typer, rich.console   {statistics.median(bares) * 1000:6.1f} ms")
    print(f"median ratio of the pairs    {ratio:6.2f}    (at most {LIMIT} required)")
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()
