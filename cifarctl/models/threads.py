"""The number of threads that torch computes with."""

from __future__ import annotations

from contextlib import suppress

import torch

from cifarctl import cpus


def use(wanted: int = 0) -> int:
    """Let torch compute with `wanted` threads, 0 = its own choice, at most `cpus.count`; returns the number.

    What it likes is a thread for each physical core of the machine, or what OMP_NUM_THREADS says.
    """
    threads = wanted or min(torch.get_num_threads(), cpus.count())
    torch.set_num_threads(threads)
    with suppress(RuntimeError):  # it is settled once a process: at the first call, or by the first work
        torch.set_num_interop_threads(threads)
    return threads


def bound_compilers() -> None:
    """Let torch.compile start no more compilers at a time than there are CPUs; it knows affinity, but no quota."""
    from torch._inductor import config  # slow to import

    config.compile_threads = min(config.compile_threads or 1, cpus.count())
