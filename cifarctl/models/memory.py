"""Memory that steps of training take and free again, one after the other."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD = -1  # of malloc.h
M_MMAP_MAX = -4


def keep_freed() -> None:
    """Have this process keep the memory that it frees, for good; for one that does little else than train.

    glibc gives large blocks back to the kernel, which clears every page anew when the next step touches it: a tenth to
    three tenths of a training step's time on a CPU. See mallopt(3); where the C library is another one nothing changes.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
