"""The lock that every writer of a registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cifarctl.errors import RegistryBusy, RegistryError
from cifarctl.registry.files import make_directory, os_errors
from cifarctl.registry.layout import LOCK


@contextmanager
def locked(registry: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of the registry in that folder, which is created if need be.

    Raises:
        RegistryBusy: another process has kept the lock for `timeout_s` seconds.
        RegistryError: the folder cannot be written.
    """
    make_directory(registry)
    lock = FileLock(registry / LOCK)
    try:
        with os_errors(registry / LOCK):
            lock.acquire(timeout=timeout_s)
    except RegistryError as error:
        if isinstance(error.__cause__, Timeout):
            raise RegistryBusy(
                f"{registry}: another process has kept the lock for {timeout_s:g} s; "
                "try again, or raise registry.lock_timeout"
            ) from None
        raise
    try:
        yield
    finally:
        lock.release()
