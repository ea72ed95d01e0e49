"""Memory that is kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import sys

import torch

from cifarctl.models import memory

if "keep" in sys.argv:
    memory.keep_freed()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_cleared_by_the_kernel_again() -> None:
    """640 MiB in ten parts, one after the other in the same place."""

    def touched(*words: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PAGES, *words], capture_output=True, check=True).stdout)

    assert touched("keep") < touched() / 10
