"""The resident size of `serve` over half a million messages, from a quick broker and from a slow one.

Measures VmRSS of the `cifarctl serve` process (anonymous, file-backed and shared pages in RAM; Linux) whenever it has
committed another 50,000 messages, raw, fed by benchmarks/feed.py in blocks so that the topic always holds some and
the disk does not fill. Then again on a broker that is halted for most of the time (SIGSTOP for 0.3 s, let go for
0.1 s), so that what `serve` has to say piles up and it has to read less.
Required: from message 50,000 to message 500,000 never more than 5 % above the first of these marks.

    python -m benchmarks.memory [--count 500000] [--step 50000] [--slow-count 500000] [--backend auto]

The slow part needs an Apache Kafka that the run has started. Exit status 1 if the requirement is missed.
Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from benchmarks.bed import RUN, Bed, Broker, Requirement, bed, options, verdict

HALTED_S, RUNNING_S = 0.3, 0.1
PATIENCE_S = 120.0
LIMIT = 1.05


@contextmanager
def slowed(broker: Broker) -> Iterator[None]:
    """Halt the broker for most of the time while the block runs."""
    assert broker.pause is not None
    assert broker.resume is not None
    pause, resume, over = broker.pause, broker.resume, threading.Event()

    def pulse() -> None:
        while not over.is_set():
            pause()
            time.sleep(HALTED_S)
            resume()
            over.wait(RUNNING_S)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def marks(bench: Bed, prefix: str, count: int, step: int, backend: str, *, slow: bool) -> dict[int, float]:
    """Resident MiB of `serve` at every `step` messages; of the slow broker all messages are there beforehand."""
    found: dict[int, float] = {}
    bench.topics(prefix)
    bench.feed("raw", count if slow else 2 * step, prefix)
    fed = count if slow else 2 * step
    with bench.serving(prefix=prefix, group=prefix, serve__backend=backend) as server:
        began = time.monotonic()
        with slowed(bench.broker) if slow else nullcontext():
            for mark in range(step, count + 1, step):

                def reached(mark: int = mark) -> bool:
                    return sum(bench.committed(prefix, prefix).values()) >= mark

                server.until(reached, PATIENCE_S + step / 500, step_s=0.1)
                found[mark] = server.resident_mib()
                print(f"{mark:>12,}{found[mark]:>10.1f}{time.monotonic() - began:>10.1f}", flush=True)
                if fed < count:
                    bench.feed("raw", step, prefix)
                    fed += step
        server.stop()
    bench.drop(prefix)
    return found


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, "benchmarks.memory")
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--slow-count", type=int, default=500_000, help="0 leaves the slow broker out")
    parser.add_argument("--step", type=int, default=50_000)
    parser.add_argument("--backend", default="auto")
    given = parser.parse_args()

    required = []
    with bed(given) as bench:
        parts = [("quick broker", given.count, False)]
        if given.slow_count and bench.broker.pause is not None:
            parts.append(("slow broker", given.slow_count, True))
        for name, count, slow in parts:
            print(f"\n{name:>12}{'MiB':>10}{'seconds':>10}")
            found = marks(bench, f"{RUN}-{slow}", count, given.step, given.backend, slow=slow)
            first, *later = found.values()
            required.append(Requirement(f"{name}: most : message {given.step:,}", max(later) / first, most=LIMIT))
    sys.exit(verdict("memory", required))


if __name__ == "__main__":
    main()
