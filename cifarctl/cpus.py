"""How many CPUs this process may use: what its affinity and the quotas of its cgroups leave of the machine.

A container that may use two of 64 cores sees all 64; threads for all of them get in each other's way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ESCAPE = re.compile(r"\\([0-7]{3})")


def count(root: Path = Path("/")) -> int:
    """CPUs that this process may use, at least 1.

    A fractional quota is rounded down: a thread that runs into the quota holds up all threads that wait for it until
    the next period of 100 ms, while the rest of a CPU is not lost, since the threads of the Kafka client use it.
    `root` is the folder below which ``/proc`` and mount points are looked up.
    """
    quotas = [quota for directory, version in _cgroups(root) if (quota := _quota(directory, version)) is not None]
    return max(1, int(min([_assigned(), *quotas])))


def _assigned() -> int:
    """CPUs that the process may run on, whatever their quota."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13: also what -X cpu_count says
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def _cgroups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the cgroups that the process is in, from the innermost outwards, and their version."""
    for path, version in _memberships(root):
        for inside, mount in _mounts(root, version):
            # In a container the mount shows only part of the hierarchy: its root appears at the mount point.
            relative = path.relative_to(inside) if path.is_relative_to(inside) else PurePosixPath()
            parts = () if ".." in relative.parts else relative.parts
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth]), version


def _memberships(root: Path) -> Iterator[tuple[PurePosixPath, int]]:
    """Paths of the process's groups that may limit its CPUs: lines ``hierarchy:controllers:path``."""
    for line in _lines(root / "proc/self/cgroup"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            yield PurePosixPath("/", path.lstrip("/")), 2
        elif "cpu" in controllers.split(","):
            yield PurePosixPath("/", path.lstrip("/")), 1


def _mounts(root: Path, version: int) -> Iterator[tuple[PurePosixPath, Path]]:
    """Which group is mounted where: lines ``id parent device ROOT MOUNT options ... - TYPE source OPTIONS``."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if (version == 2 and kind[0] == "cgroup2") or (
            version == 1 and kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        ):
            yield PurePosixPath(_plain(fields[3])), root / _plain(fields[4]).lstrip("/")


def _quota(directory: Path, version: int) -> float | None:
    """CPUs that a group may use, None where it has no limit."""
    if version == 2:
        text = " ".join(_lines(directory / "cpu.max"))
    else:
        text = " ".join([*_lines(directory / "cpu.cfs_quota_us"), *_lines(directory / "cpu.cfs_period_us")])
    with suppress(ValueError, ArithmeticError):
        quota, period = map(int, text.split())  # no limit is "max" in version 2, -1 in version 1
        return quota / period if quota > 0 else None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except (OSError, ValueError):  # another system, another version, or a path that cannot be one
        return []


def _plain(text: str) -> str:
    """A path of mountinfo, in which blanks are octal numbers."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
