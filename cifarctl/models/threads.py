"""Set the number of torch's threads."""

from __future__ import annotations

from contextlib import suppress

import torch

from cifarctl import cpus


def use(wanted: int = 0) -> int:
    """Let torch use `wanted` threads and return their number; 0 = torch's default, limited to `cpus.count`.

    Torch's default is OMP_NUM_THREADS, or one thread per physical core.
    """
    threads = wanted or min(torch.get_num_threads(), cpus.count())
    torch.set_num_threads(threads)
    with suppress(RuntimeError):  # it can be set only once per process, before any work
        torch.set_num_interop_threads(threads)
    return threads


def bound_compilers() -> None:
    """Limit torch.compile's parallel compilers to the available CPUs; it respects affinity, but not cgroup quotas."""
    from torch._inductor import config  # slow to import

    config.compile_threads = min(config.compile_threads or 1, cpus.count())
