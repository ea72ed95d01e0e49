"""Tune the C library's allocator for training."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD = -1  # of malloc.h
M_MMAP_MAX = -4


def keep_freed() -> None:
    """Keep freed memory in this process instead of returning it to the kernel; for processes that mainly train.

    glibc returns large blocks to the kernel, which clears every page again when the next step touches it. That takes 10
    to 30 % of a training step's time on a CPU (benchmarks/FINDINGS.md). See mallopt(3). With another C library this
    does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
