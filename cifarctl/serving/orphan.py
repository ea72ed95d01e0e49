"""A child process that does not outlive its parent, however that ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl.h


def end_with_parent() -> None:
    """End this process, which multiprocessing has started, as soon as its parent has ended.

    On Linux the kernel kills it, whatever it does at the moment. A thread waits for the end of the parent as well: for
    other systems, and for a parent that had ended before the kernel was asked.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # where it cannot be had the thread does it
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    threading.Thread(target=_follow, args=(parent,), name="parent", daemon=True).start()


def orphaned() -> bool:
    """Whether the parent of this process, which multiprocessing has started, has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
