"""Memory that every training step allocates and frees again."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD = -1  # of malloc.h
M_MMAP_MAX = -4


def keep_freed() -> None:
    """Make this process keep the memory that it frees; for processes that do little else than train.

    glibc returns large blocks to the kernel, which clears every page again when the next step touches it: 10 to 30 % of
    a training step's time on a CPU. See mallopt(3). With another C library nothing changes.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
