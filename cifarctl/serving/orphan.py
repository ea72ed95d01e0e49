"""Child processes that do not outlive their parent, however it ends."""

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

    On Linux the kernel kills it, whatever it is doing. A thread waits for the end of the parent as well: for other
    systems, and for a parent that had ended before the kernel was asked.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # elsewhere the thread alone does it
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def orphaned() -> bool:
    """Whether the parent of this process, which multiprocessing has started, has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
