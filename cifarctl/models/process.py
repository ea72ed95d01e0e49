"""What a process that trains makes of the machine: its threads, and the memory that its steps share."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch

M_TRIM_THRESHOLD = -1  # of malloc.h
M_MMAP_MAX = -4


def trains(threads: int) -> None:
    """Have this process compute with `threads` threads (0: as many as torch takes) and keep the memory that it frees.

    glibc gives large blocks back to the kernel, which clears every page anew when the next step touches it. With the
    activations of a batch that is a quarter of a training step's time on a CPU. See mallopt(3); where the C library is
    another one nothing changes.
    """
    if threads:
        torch.set_num_threads(threads)
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
