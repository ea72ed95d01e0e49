"""Requests to the learner that moves an alias, and its answers: a file each in ``learner/requests/<alias>``."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cifarctl.registry.files import make_directory, os_errors, replace_file, token
from cifarctl.registry.layout import LEARNER

ASKED = ".asked"
ANSWERED = ".json"
KEPT_S = 3600.0  # seconds after which an unanswered request and an unfetched answer are deleted


class Requests:
    """Requests to learn at once; the process that asks waits for the answer under the name of its request."""

    def __init__(self, registry: Path, alias: str = "production") -> None:
        self._folder = registry / LEARNER / "requests" / alias

    def ask(self) -> str:
        """Leave a request; its name.

        Raises:
            RegistryError: the folder cannot be written.
        """
        make_directory(self._folder)
        name = token("retrain-")
        replace_file(self._folder / (name + ASKED), b"")
        return name

    def withdraw(self, name: str) -> None:
        """Take a request back, and its answer if there is one."""
        with os_errors(self._folder):
            for end in (ASKED, ANSWERED):
                (self._folder / (name + end)).unlink(missing_ok=True)

    def waiting(self) -> list[str]:
        """Names of the requests that wait for an answer; files older than an hour are deleted.

        Raises:
            RegistryError: the folder cannot be read or written.
        """
        names = []
        with os_errors(self._folder):
            for path in sorted(self._folder.glob("retrain-*")):
                with suppress(FileNotFoundError):  # fetched or withdrawn just now
                    if time.time() - path.stat().st_mtime > KEPT_S:
                        path.unlink()
                    elif path.name.endswith(ASKED):
                        names.append(path.name.removesuffix(ASKED))
        return names

    def answer(self, name: str, result: dict[str, Any]) -> None:
        """Answer a request with a JSON-serialisable result; it is then no longer pending.

        Raises:
            RegistryError: the folder cannot be written.
        """
        replace_file(self._folder / (name + ANSWERED), json.dumps(result).encode())
        with os_errors(self._folder):
            (self._folder / (name + ASKED)).unlink(missing_ok=True)

    def fetch(self, name: str) -> dict[str, Any] | None:
        """The answer to a request, once; None as long as there is none."""
        path = self._folder / (name + ANSWERED)
        with os_errors(path):
            try:
                found: dict[str, Any] = json.loads(path.read_bytes())
            except FileNotFoundError:
                return None
            path.unlink(missing_ok=True)
        return found
